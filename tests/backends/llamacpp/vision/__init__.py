"""Pictures in GGUF chats."""
