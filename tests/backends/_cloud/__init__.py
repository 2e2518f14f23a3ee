"""The tests of backends/_cloud."""
