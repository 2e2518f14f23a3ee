"""Resolve, download and read wheels for a target platform."""
