"""Tokenizing texts of any length."""
