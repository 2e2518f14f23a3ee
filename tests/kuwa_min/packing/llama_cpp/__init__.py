"""The tests of kuwa_min/packing/llama_cpp."""
