"""Chat from a terminal or a script, with a Kernel or with an OpenAI-compatible server."""
