"""The base class of executors, which is LLMExecutor: a subclass may override `serve` alone."""

from __future__ import annotations

import json
import socket
from typing import Any

from kuwa_min.executor import LLMExecutor as BaseExecutor

__all__ = ["AdvancedJSONEncoder", "BaseExecutor", "find_free_port"]


class AdvancedJSONEncoder(json.JSONEncoder):
    """Encode chunks, sets, and whatever else has `__jsonencode__`."""

    def default(self, o: Any) -> Any:
        """Return a form of the object that JSON can encode."""
        if hasattr(o, "__jsonencode__"):
            return o.__jsonencode__()
        return list(o) if isinstance(o, set) else super().default(o)


def find_free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])
