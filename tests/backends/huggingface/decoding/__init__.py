"""The tests of backends/huggingface/decoding."""
