"""Check a GGUF file: it is whole, its parts are there, and what it holds can answer chats."""

from __future__ import annotations

import re
from pathlib import Path

from . import pieces
from .foreign_files import unfinished, what_it_is
from .gguf_header import (
    ADAPTER_TYPE,
    ALIGNMENT,
    ARCHITECTURE,
    FILE_TYPE,
    HAS_AUDIO,
    HAS_VISION,
    MAGIC,
    POOLING,
    PROJECTOR,
    SPLIT_COUNT,
    SPLIT_NUMBER,
    TOKENIZER,
    VERSIONS,
    VISION_PROJECTOR,
    Header,
    read_header,
)
from .sniff import (
    InvalidModelFile,
    check_size,
    join_names,
    printable,
    read_head,
)

PART = re.compile(r"(.*-)(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
RANK = 4  # the last of llama.cpp's pooling types, which make embeddings; 0 is none
# Their pictures depend on what is before them, so that none can be encoded once for all chats.
UNUSABLE_PROJECTORS = ("deepseek4v", "hunyuanvl")
NO_CHATS = "and answers no chats; a language model is needed"
ENCODER = f"is an embedding model (it turns text into numbers) {NO_CHATS}"
PICTURES = f"makes pictures or films {NO_CHATS}"
SPEECH = f"is for speech {NO_CHATS}"
# Architectures that llama.cpp cannot generate text with, or that only other programs know.
KINDS = {
    **dict.fromkeys(
        (
            *("bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3"),
            *("llama-embed", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe"),
        ),
        ENCODER,
    ),
    "t5encoder": f"is the encoder of a T5 model (of a picture generator, usually) {NO_CHATS}",
    **dict.fromkeys(
        (
            *("aura", "cosmos", "flux", "hidream", "hyvid", "ltxv", "lumina2", "pixart"),
            *("qwen_image", "sd1", "sd3", "sdxl", "wan"),
        ),
        PICTURES,
    ),
    **dict.fromkeys(("kokoro", "outetts", "parler-tts", "wavtokenizer-dec", "whisper"), SPEECH),
}


def check(path: Path) -> Header:
    """Check a file and its further parts; return its header. Raises InvalidModelFile."""
    read_head(path)
    further = parts(path)[1:]
    header = check_file(path)
    _check_kind(header)
    for part in further:
        try:
            check_file(part)
        except InvalidModelFile as error:
            raise InvalidModelFile(f"has further parts: {part.name} {error}") from None
    return header


def check_mmproj(path: Path) -> Header:
    """Check the vision part of a model (mmproj); return its header. Raises InvalidModelFile."""
    header = check_file(path)
    if not _is_mmproj(header):
        raise InvalidModelFile(
            f"holds a {printable(header.text(ARCHITECTURE) or 'nameless')} model; the part that "
            "sees pictures is needed, a file with mmproj in its name"
        )
    if not header.fields.get(HAS_VISION, not header.fields.get(HAS_AUDIO)):
        raise InvalidModelFile("is for sounds; this program reads pictures, and no sounds")
    projector = header.text(PROJECTOR) or header.text(VISION_PROJECTOR)
    if projector in UNUSABLE_PROJECTORS:
        raise InvalidModelFile(
            f"is of the kind {projector}, whose pictures depend on what is before them in a chat; "
            "this program reads no such pictures"
        )
    return header


def _is_mmproj(header: Header) -> bool:
    return header.text(FILE_TYPE) == "mmproj" or header.text(ARCHITECTURE) == "clip"


def parts(path: Path) -> list[Path]:
    """Return the file and its further parts by their names; raises InvalidModelFile."""
    named = PART.fullmatch(path.name)
    if named is None:
        return [path]
    start, number, count = named[1], int(named[2]), int(named[3])
    if number != 1:
        first = path.with_name(f"{start}00001-of-{named[3]}.gguf")
        raise InvalidModelFile(f"is part {number} of {count}; the first one is needed: {first}")
    found = [
        path.with_name(f"{start}{one:05}-of-{named[3]}.gguf") for one in range(1, count + 1)
    ] or [path]
    missing = [one.name for one in found if not one.is_file()]
    if missing:
        raise InvalidModelFile(
            f"is one of {count} parts, of which {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: {join_names(missing)}; copy them, too"
        )
    return found


def check_file(path: Path) -> Header:
    """Check one file by itself, and that its name states the number of the part that it holds.

    Returns its header. Raises InvalidModelFile.
    """
    head, size = read_head(path), path.stat().st_size
    try:
        header = _read(path, head, size)
    except OSError as error:
        raise InvalidModelFile(f"cannot be read: {error.strerror}") from None
    except InvalidModelFile as error:
        raise InvalidModelFile(pieces.advice(path) or unfinished(path) or str(error)) from None
    if hint := unfinished(path):
        raise InvalidModelFile(hint)
    _check_split(path, header, size)
    return header


def _read(path: Path, head: bytes, size: int) -> Header:
    _check_version(head, path.name)
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        header = read_header(file, size)
    check_size(header.needed, size)
    return header


def _check_version(head: bytes, name: str) -> None:
    if not head.startswith(MAGIC):
        raise InvalidModelFile(
            what_it_is(head, name) or f"is not a GGUF file: it begins with {head[:4]!r}"
        )
    number = head[len(MAGIC) : len(MAGIC) + 4]
    if len(number) < 4:
        return  # what comes next says that it is truncated
    if int.from_bytes(number, "big") in VERSIONS:
        raise InvalidModelFile("is a GGUF file for big-endian machines; convert it for this one")
    version = int.from_bytes(number, "little")
    if version not in VERSIONS:
        raise InvalidModelFile(f"is GGUF version {version}; 2 and 3 can be read")


# -- split models


def _check_split(path: Path, header: Header, size: int) -> None:
    """Raise InvalidModelFile for a part of a split model that was joined or renamed.

    llama.cpp finds the other parts by the name of the first one.
    """
    count, number = header.number(SPLIT_COUNT), header.number(SPLIT_NUMBER) + 1
    if count < 2:
        return
    last = f"{count:05}"
    if _is_followed_by_another(path, header.needed, size):
        raise InvalidModelFile(
            f"is several parts of a split model, joined by `cat` or `copy`; take the {count} parts "
            f"as they were (NAME-00001-of-{last}.gguf and so on), or join them with llama.cpp's "
            "`llama-gguf-split --merge`"
        )
    named = PART.fullmatch(path.name)
    if named and (int(named[2]), int(named[3])) == (number, count):
        return
    raise InvalidModelFile(
        f"is part {number} of {count} of a split model under another name, by which the others are "
        f"not found; name it NAME-{number:05}-of-{last}.gguf and the others alike, in one folder, "
        f"and give NAME-00001-of-{last}.gguf"
    )


def _is_followed_by_another(path: Path, needed: int, size: int) -> bool:
    """Tell whether another GGUF file begins where this one ends, with or without its padding."""
    with path.open("rb") as file:
        for place in {needed, -(-needed // ALIGNMENT) * ALIGNMENT}:
            file.seek(place)
            if place < size and file.read(len(MAGIC)) == MAGIC:
                return True
    return False


# -- what is no language model


def _check_kind(header: Header) -> None:
    """Raise InvalidModelFile if the file holds something else than a model that writes text."""
    architecture, kind = header.text(ARCHITECTURE), header.text(FILE_TYPE)
    if kind == "adapter" or header.text(ADAPTER_TYPE):
        raise InvalidModelFile(
            f"is an adapter (LoRA) for a model of the architecture {printable(architecture)}, not "
            "a whole model; give the model as --model_path, and this file as --lora"
        )
    if _is_mmproj(header):
        raise InvalidModelFile(
            "is the part of a model that sees pictures (mmproj); give the language model, a file "
            "without mmproj in its name, and this one as --mmproj"
        )
    if kind == "imatrix":
        raise InvalidModelFile(
            "is an importance matrix (imatrix), which serves to quantise a model; give the model"
        )
    pooled = 0 < header.number(architecture + POOLING) <= RANK
    if said := KINDS.get(architecture) or (ENCODER if pooled else ""):
        raise InvalidModelFile(f"{said} (architecture {printable(architecture)})")
    if not header.tensors and header.text(TOKENIZER):
        raise InvalidModelFile(
            "holds a vocabulary and no weights: it serves to test tokenizers; give the whole model"
        )
