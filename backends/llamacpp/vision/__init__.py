"""Pictures in GGUF chats: encoded by llama.cpp's mtmd, remembered by hash, decoded into slots."""
