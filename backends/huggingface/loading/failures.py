"""Say in one line why a folder cannot be loaded."""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import transformers

from backends._local.model_files.quantization import not_installed
from backends._local.model_files.sniff import InvalidModelFile, join_names, printable, read_json
from backends.huggingface.device import errors
from kuwa_min.errors import KuwaError, StartError

from .load_options import LoadOptions

logger = logging.getLogger(__name__)

MISSING_PACKAGES = re.compile(r"not found in your environment: ([\w., -]+?)\. Run ")
UNKNOWN_TYPE = re.compile(r"model type `([^`]*)` but Transformers does not recognize")
MAX_REASON = 300  # characters of the library's error message


@contextlib.contextmanager
def explaining(options: LoadOptions) -> Iterator[None]:
    """Raise StartError with one line for whatever loading raises."""
    path = options.model_path
    try:
        yield
    except KuwaError:
        raise
    except pickle.UnpicklingError:
        raise StartError(
            f"{path} cannot be loaded: a .bin file of it holds more than weights, and reading that "
            "could run somebody's code; take the model's .safetensors files"
        ) from None
    except Exception as error:  # the library raises whatever its readers raise
        errors.check(error, ())
        if errors.is_out_of_memory(error):
            raise StartError(f"{path} does not fit into memory; a smaller --dtype may") from None
        logger.debug("loading failed", exc_info=True)
        raise StartError(f"{path} {_reason(error, options)}") from None


def _reason(error: Exception, options: LoadOptions) -> str:
    """Return why a folder cannot be loaded, in one line; what to do may end a long message."""
    text = "".join(filter(str.isprintable, " ".join(str(error).split())))
    if "trust_remote_code" in text and not options.trust_remote_code:
        files = join_names(sorted(one.name for one in Path(options.path).glob("*.py")))
        return (
            f"needs Python code of its own ({files or 'which is not in its folder'}), which may do "
            "anything with your rights; read it, then start with --trust_remote_code"
        )
    if options.trust_remote_code and (place := _repository_of_code(options.path)):
        return (
            f"needs Python code of {printable(place)}, which is not in its folder; copy the .py "
            f"files of that one into it, and take `{printable(place)}--` out of its config.json"
        )
    if isinstance(error, ImportError) and (missing := MISSING_PACKAGES.search(text)):
        return f"has Python code that needs {not_installed(missing[1].split(', '))}"
    if unknown := UNKNOWN_TYPE.search(text):
        return (
            f"is a model of the type {printable(unknown[1])}, which transformers "
            f"{transformers.__version__} does not know; a file built with a newer one "
            "(build.py huggingface --newest) may, and a GGUF of it may run with `llamacpp`"
        )
    return f"cannot be loaded: {type(error).__name__}: {text[:MAX_REASON]}"


def _repository_of_code(path: str) -> str:
    """Return the name on the hub where config.json says that the code lies; "" if it says none."""
    try:
        places = read_json(Path(path) / "config.json").get("auto_map")
    except InvalidModelFile:
        return ""
    named = list(places.values()) if isinstance(places, dict) else []
    found = [one for one in named if isinstance(one, str) and "--" in one]
    return found[0].partition("--")[0] if found else ""
