"""Compile llama-cpp-python, and the backends of ggml that compute on graphics cards."""
