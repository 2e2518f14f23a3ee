"""The tests of kuwa_min/log."""
