"""Custom executors in files of their own."""
