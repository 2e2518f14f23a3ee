"""Put a language model behind a Kuwa Kernel: subclass LLMExecutor and yield text."""

__version__ = "0.1.0"
__all__ = ["LLMExecutor", "Modelfile", "__version__"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kuwa_min.chat.modelfile import Modelfile

    from .executor import LLMExecutor


def __getattr__(name: str) -> object:
    """Import a public name at its first use: the launcher checks the machine before all that."""
    modules = {"LLMExecutor": "executor", "Modelfile": "chat.modelfile"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{modules[name]}", __name__), name)
