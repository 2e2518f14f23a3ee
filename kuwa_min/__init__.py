"""Put a language model behind a Kuwa Kernel: subclass LLMExecutor and yield text."""

from .executor import LLMExecutor
from .modelfile import Modelfile

__version__ = "0.1.0"
__all__ = ["LLMExecutor", "Modelfile", "__version__"]
