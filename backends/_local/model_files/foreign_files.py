"""Say what a file is that cannot be loaded: by its first bytes and its name.

Each answer is the second half of a sentence: what it is, and what to do.
"""

from __future__ import annotations

from pathlib import Path

UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".opdownload", ".!qb")
CONTROL = ".aria2"  # beside a file of its full size that aria2 has not filled yet
UNPACK = "unpack it, and give the model that is in it"
FOLDER = "`huggingface --model_path FOLDER` runs the folder that it belongs to"
TORCH = f"holds weights of torch; {FOLDER}"
OLD = "is in a format that llama.cpp gave up in 2023 (GGML); take the model as GGUF"
ARCHIVE = f"is an archive; {UNPACK}"
BEGINNINGS = (  # the first bytes -> what it is
    (b"\x1f\x8b", ARCHIVE),  # gzip
    (b"BZh", ARCHIVE),
    (b"\xfd7zXZ", ARCHIVE),
    (b"\x28\xb5\x2f\xfd", ARCHIVE),  # zstd
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"Rar!", ARCHIVE),
    (b"lmgg", "is in the GGML format, of whisper.cpp or of before 2023; take the model as GGUF"),
    (b"fmgg", OLD),
    (b"tjgg", OLD),
    (b"algg", f"{OLD}; and it is an adapter (LoRA), not a whole model"),
    (b"\x80", TORCH),
    (b"\x89HDF", "holds weights of Keras, which nothing here runs; take the model as safetensors"),
)
ENDINGS = (  # of the name -> what it is
    (".safetensors", f"is a safetensors file; {FOLDER}"),
    (".onnx", "is an ONNX model, which nothing here runs; take it as GGUF or as safetensors"),
    ((".tflite", ".task", ".litertlm"), "is a model for LiteRT, which nothing here runs"),
    ((".nemo", ".tar"), ARCHIVE),
    ((".dat", ".imatrix"), "may be an importance matrix (imatrix), but no model; give the model"),
)
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
TAR = slice(257, 262)
TORCH_NAMES = (".bin", ".pt", ".pth", ".ckpt")


def what_it_is(head: bytes, name: str) -> str:
    """Return what a file is that does not begin as a GGUF file; "" if that is not known.

    head: its first bytes.
    """
    name = name.lower()
    if head.startswith(b"PK\x03\x04"):
        return TORCH if name.endswith(TORCH_NAMES) else ARCHIVE
    if head[TAR] == b"ustar":
        return ARCHIVE
    known = [said for beginning, said in BEGINNINGS if head.startswith(beginning)]
    known += [said for ending, said in ENDINGS if name.endswith(ending)]
    return known[0] if known else ""


def unfinished(path: Path) -> str:
    """Return that the download of a file has not ended; "" if nothing says so."""
    control = path.with_name(path.name + CONTROL)
    if control.exists():
        return f"is not complete: {control.name} lies beside it, so its download has not ended"
    if path.name.lower().endswith(UNFINISHED):
        return "is, by its name, a download that has not ended; fetch the file again"
    return ""
