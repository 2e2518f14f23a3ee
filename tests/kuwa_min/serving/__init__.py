"""The tests of kuwa_min/serving.

test_generation covers piece_writer, too; test_status backend_status; ../test_executor service.
"""
