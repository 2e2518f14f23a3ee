"""Chat templates: trusted ones in process, untrusted ones in a sandboxed child process."""
