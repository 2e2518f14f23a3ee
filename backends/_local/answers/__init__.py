"""What an answer is made of: its pieces, its thoughts and where they end."""
