"""A hardened http.server: parsing, connections, backpressure. It knows no chat and no Kernel."""
