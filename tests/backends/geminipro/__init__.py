"""The tests of backends/geminipro."""
