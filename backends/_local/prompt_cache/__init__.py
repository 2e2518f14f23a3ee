"""The prompt cache: states of slots that were overwritten, in host memory and, if told, on disk."""
