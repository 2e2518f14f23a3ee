"""Tests of OpenAI's protocol without sockets."""
