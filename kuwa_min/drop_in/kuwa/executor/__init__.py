"""Kuwa's `kuwa.executor`, provided by kuwa-min: files written for Kuwa import these names."""

from importlib import import_module

from kuwa_min.chat.modelfile import Modelfile
from kuwa_min.compat import provide_version
from kuwa_min.executor import LLMExecutor

__all__ = ["LLMExecutor", "Modelfile"]
MODULES = ("base_executor", "cache", "llm_executor", "message", "modelfile", "util")

provide_version()


def __getattr__(name: str) -> object:
    """Import a module of this package at its first use, where Kuwa has imported it already."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
