"""Make files: what build.py does on a connected machine. Nothing of it travels in a file."""
