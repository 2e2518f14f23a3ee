"""Read what the shared libraries of wheels need from the host: glibc, symbols, CPU."""
