"""Tests of the prompt cache."""
