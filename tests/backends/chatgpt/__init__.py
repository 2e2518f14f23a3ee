"""The tests of backends/chatgpt."""
