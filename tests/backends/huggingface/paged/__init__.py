"""The tests of backends/huggingface/paged."""
