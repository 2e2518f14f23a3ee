"""Pictures in GGUF chats: encoded by llama.cpp's mtmd, cached by hash, decoded into slots."""
