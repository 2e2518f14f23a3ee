"""The tests of the chat page."""
