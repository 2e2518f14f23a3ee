"""Check the text files of a model's folder, and let the library read those saved on Windows.

transformers reads UTF-8 without a byte order mark only: it refuses other files without their names,
or, in the case of generation_config.json, ignores them.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kuwa_min.options.text_file import encoding_of

from .sniff import (
    InvalidModelFile,
    check_small_file,
    decoded,
    join_names,
    parse_json,
    printable,
    read_bytes,
)

logger = logging.getLogger(__name__)

EXTRA_TEMPLATES = "additional_chat_templates"
TOKENIZER = (  # what the library reads by these names must be readable
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
)
SETTINGS = (
    *("config.json", "generation_config.json", "chat_template.json", "chat_template.jinja"),
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
)
OTHERS = (  # of which it reads some, or none: a script, a copy, the index of other weights
    *("*token*.json", "*vocab*.json", "*vocab*.txt", "*.index.json", "*.py"),
    *("*.jinja", f"{EXTRA_TEMPLATES}/*.jinja"),
)
LARGEST_PARSED = 1 << 20  # bytes; larger JSON files would take long: only their end is looked at
REMEDY = "save it as UTF-8 without a byte order mark"


def readable(folder: Path, *, needs_tokenizer: bool = True) -> Path:
    """Return a folder whose texts the library can read; raises InvalidModelFile about the folder.

    It is the same one; or, if texts are in another encoding than plain UTF-8, a temporary one of
    links to its files, in which these are written anew. It is removed when the process ends.
    needs_tokenizer: false leaves out the tokenizer's files.
    """
    needed = {*SETTINGS, *(TOKENIZER if needs_tokenizer else ())}
    patterns = (*needed, *OTHERS)
    files = {file for pattern in patterns for file in folder.glob(pattern) if not file.is_dir()}
    changed: dict[str, str] = {}
    for file in sorted(files):
        name = file.relative_to(folder).as_posix()
        try:
            text, is_plain = _read(file)
        except InvalidModelFile as error:
            if name not in needed:
                logger.debug("%s: left as it is: %s %s", folder, printable(name), error)
                continue
            raise InvalidModelFile(f"cannot be loaded: {printable(name)} {error}") from None
        if not is_plain:
            changed[name] = text
    return _mirror(folder, changed) if changed else folder


def _read(file: Path) -> tuple[str, bool]:
    """Return a file's text, and whether it is plain UTF-8; raises InvalidModelFile."""
    check_small_file(file)
    data = read_bytes(file)
    text = decoded(data)
    if file.suffix == ".json":
        _check_json(text)
    return text, encoding_of(data) == ("utf-8", 0)


def _check_json(text: str) -> None:
    if len(text) <= LARGEST_PARSED:
        parse_json(text)
    elif not text.rstrip().endswith(("}", "]")):
        raise InvalidModelFile("is no JSON object: it is cut off; copy it again")


def _mirror(folder: Path, changed: Mapping[str, str]) -> Path:
    """Return a temporary folder of links to the files of this one, with the changed texts."""
    names = join_names(list(changed))
    try:
        parent = Path(tempfile.mkdtemp(prefix="kuwa-model-"))
        atexit.register(shutil.rmtree, parent, ignore_errors=True)
        mirror = parent / (folder.resolve().name or "model")  # the library names code after it
        _link(folder.resolve(), mirror, changed)
    except OSError as error:  # Windows lets few users make links
        raise InvalidModelFile(
            f"cannot be loaded: the library does not read {names} in this encoding, and a copy "
            f"cannot be made ({error.strerror or error}); {REMEDY}"
        ) from None
    logger.warning("%s: %s: in UTF-16 or with a byte order mark, read as UTF-8", folder, names)
    return mirror


def _link(source: Path, target: Path, changed: Mapping[str, str], above: str = "") -> None:
    """Fill a new folder with links to the files of another one, and with the changed texts."""
    target.mkdir()
    for entry in source.iterdir():
        name, here = f"{above}{entry.name}", target / entry.name
        if name in changed:
            here.write_text(changed[name], encoding="utf-8")
        elif name == EXTRA_TEMPLATES and entry.is_dir():
            _link(entry, here, changed, f"{name}/")
        else:
            here.symlink_to(entry)
