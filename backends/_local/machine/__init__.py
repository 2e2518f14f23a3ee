"""What the machine has, and what of it we may use: memory, graphics cards, processors."""
