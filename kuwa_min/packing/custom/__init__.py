"""What a custom executor's file needs to travel: its files, its requirements, its imports."""
