"""Tests of what the machine has."""
