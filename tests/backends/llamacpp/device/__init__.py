"""Tests of devices and their memory."""
