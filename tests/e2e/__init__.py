"""The tests of e2e."""
