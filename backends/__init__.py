"""Hold the backends: one file each, options in, text out."""
