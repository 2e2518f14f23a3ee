"""HTTP/1.1 client connections that another thread can cancel, and their pool."""
