"""Tiny models that the tests make."""
