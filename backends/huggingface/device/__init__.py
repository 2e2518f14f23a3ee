"""Where a model computes: errors of devices, and the choice of graphics cards."""
