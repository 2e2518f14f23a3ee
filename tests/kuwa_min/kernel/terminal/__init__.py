"""Tests of kuwa_min.kernel.terminal."""
