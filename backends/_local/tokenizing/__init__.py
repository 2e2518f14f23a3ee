"""Tokenizing texts of any length: in pieces, within bounds, once."""
