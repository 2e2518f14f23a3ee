"""What a built file does for itself: manifest, preflight checks, cache of unpacked libraries."""
