"""The tests of backends/_http."""
