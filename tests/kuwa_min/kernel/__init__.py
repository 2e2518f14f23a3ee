"""The tests of kuwa_min/kernel.

test_embedded covers records and relay, too.
"""
