"""The tests of backends/llamacpp."""
