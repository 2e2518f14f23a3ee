"""Find a model's files, and say what is wrong with them before anything is loaded."""
