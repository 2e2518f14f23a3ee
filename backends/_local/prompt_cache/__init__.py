"""The prompt cache: states of rows that were overwritten, in host memory and, if told, on disk."""
