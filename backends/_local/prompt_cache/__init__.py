"""The prompt cache: states of slots that were overwritten, in host memory, optionally on disk."""
