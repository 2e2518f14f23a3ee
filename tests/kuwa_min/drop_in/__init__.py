"""The tests of kuwa_min/drop_in."""
