"""Generations: the chats that are answered, from the request to the last byte."""
