"""The tests of kuwa_min/process."""
