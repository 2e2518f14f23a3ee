"""Forward passes over the sequences of a batch, and the KV cache in which each has a slot."""
