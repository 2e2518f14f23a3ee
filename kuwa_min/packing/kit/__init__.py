"""Make the carry-in kit, and sign it."""
