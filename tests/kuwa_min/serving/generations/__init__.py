"""The tests of kuwa_min/serving/generations; test_generation covers piece_writer, too."""
