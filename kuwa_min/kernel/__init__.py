"""The wire protocols of the Kuwa Kernel, 0.3 and 0.4, and a Kernel to try an executor with."""
