"""Requests that stop a chat or the process, and who may send them."""
