"""Attention over a KV cache in pages, by a kernel that reads no padding and needs no masks."""
