"""The tests of kuwa_min/packing/libraries."""
