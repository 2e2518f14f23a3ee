"""Kernels, front ends and executors of Kuwa."""
