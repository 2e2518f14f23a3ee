"""The tests of backends."""
