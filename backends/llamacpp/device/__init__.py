"""Where a model computes: devices, and what fits into their memory."""
