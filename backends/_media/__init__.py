"""The images and files of a chat: found in its text, fetched under limits, identified."""
