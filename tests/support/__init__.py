"""Helpers of the tests: start programs, make small files, drive chats."""
