"""One executor process: routes, slots, generation, registration, metrics, shutdown."""
