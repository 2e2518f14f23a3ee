"""Servers with one odd behaviour each."""
