"""What is loaded, and how."""
