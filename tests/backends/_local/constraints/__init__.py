"""Tests of constrained answers."""
