"""The tests of backends/_local/model_files."""
