"""The tests of backends/_media."""
