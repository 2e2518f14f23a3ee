"""The tests of kuwa_min/serving/commands."""
