"""The tests of backends/huggingface."""
