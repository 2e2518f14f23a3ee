"""Every option: its type, where it may stand, how its value is parsed."""
