"""llama.cpp's context: batches of tokens, and the KV cache in which each sequence has a slot."""
