"""The tests of backends/_local/templates."""
