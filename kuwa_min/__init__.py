"""Put a language model behind a Kuwa Kernel: subclass LLMExecutor and yield text."""

__version__ = "0.1.0"
__all__ = ["LLMExecutor", "Modelfile", "__version__"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .executor import LLMExecutor
    from .modelfile import Modelfile


def __getattr__(name: str) -> object:
    """Import what is asked for, so that the launcher can refuse a machine before all the rest."""
    homes = {"LLMExecutor": "executor", "Modelfile": "modelfile"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{homes[name]}", __name__), name)
