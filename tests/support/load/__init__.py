"""Load scenarios and the isolated machines they run on."""
