"""Load a transformers folder: what is in it, where it goes, and why it cannot be loaded."""
