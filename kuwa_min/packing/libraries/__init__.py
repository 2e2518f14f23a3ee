"""Find the libraries that travel in a file, and those that compute on graphics cards."""
