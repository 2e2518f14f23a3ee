"""GGUF: a damaged head is one line, found without believing any number in it."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import pytest

from backends._local.model_files import gguf as _gguf_file
from kuwa_min.errors import UsageError
from tests.support.models import tiny_models

U32, F32, STRING, ARRAY, U64 = 4, 6, 8, 9, 10
F32_TENSOR, Q8_0, UNKNOWN = 0, 8, 999
HUGE = 2**63


def text(value: str | bytes) -> bytes:
    """Return a text of the format."""
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def field(name: str, kind: int, value: bytes) -> bytes:
    """Return a field: name, type, value."""
    return text(name) + struct.pack("<I", kind) + value


def tensor(shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """Return what the head says about a tensor."""
    numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return text("weights") + numbers


LLAMA = field("general.architecture", STRING, text("llama"))
STRINGS = field("tokens", ARRAY, struct.pack("<IQ", STRING, 3) + text("a") + text("bc") + text(""))
NUMBERS = field("scores", ARRAY, struct.pack("<IQ", F32, 3) + bytes(12))


def gguf(fields: list[bytes], tensors: list[bytes], data: int, *, alignment: int = 32) -> bytes:
    """Return a file with this many bytes of data."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    head += b"".join([*fields, *tensors])
    return head + bytes(-len(head) % alignment if tensors else 0) + bytes(data)


WHOLE = gguf([LLAMA, STRINGS, NUMBERS], [tensor((64, 2), Q8_0, 0), tensor((8,), 0, 160)], 192)


def write(place: Path, content: bytes, name: str = "m.gguf") -> Path:
    """Write a file."""
    (place / name).write_bytes(content)
    return place / name


def wrong(path: Path) -> str:
    """Return the one line that says what is wrong with this file."""
    with pytest.raises(UsageError) as refused:
        _gguf_file.check(path)
    sentence = str(refused.value)
    assert sentence.isprintable()
    return sentence


def test_a_whole_file_says_its_architecture(tmp_path: Path) -> None:
    """Which decides what can be done with it; a file may leave it out."""
    assert _gguf_file.check(write(tmp_path, WHOLE)) == "llama"
    assert _gguf_file.check(write(tmp_path, gguf([], [], 0))) == ""


def test_a_real_file_is_whole(tmp_path: Path) -> None:
    """As llama.cpp reads it; one byte less is too few."""
    pytest.importorskip("numpy", reason="the test model's weights are made with it")
    path = tiny_models.write_gguf(tmp_path / "m.gguf")
    assert _gguf_file.check(path) == "llama"
    content = path.read_bytes()
    write(tmp_path, content[:-1])
    assert wrong(path) == (
        f"is truncated: {len(content):,} bytes are needed, {len(content) - 1:,} are there; "
        "copy it again"
    )


def test_every_truncation_is_found(tmp_path: Path) -> None:
    """Wherever the file was cut."""
    head = len(WHOLE) - 192
    for size in range(4, len(WHOLE)):
        found = wrong(write(tmp_path, WHOLE[:size]))
        assert found.startswith("is truncated or damaged: more" if size < head - 31 else "is trunc")
        assert f"{size} are there; copy it again" in found


def test_every_changed_byte_is_answered(tmp_path: Path) -> None:
    """With an architecture or one line."""
    for at in range(4, len(WHOLE) - 192):
        content = bytearray(WHOLE)
        content[at] ^= 0xFF
        path = write(tmp_path, bytes(content))
        try:
            _gguf_file.check(path)
        except UsageError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE),
        gguf([struct.pack("<Q", HUGE)], [], 100),
        gguf([field("x", STRING, struct.pack("<Q", HUGE))], [], 100),
        gguf([field("x", ARRAY, struct.pack("<IQ", STRING, HUGE))], [], 100),
        gguf([field("x", ARRAY, struct.pack("<IQ", U64, HUGE))], [], 100),
        gguf([field("x", ARRAY, struct.pack("<IQ", ARRAY, 1))], [], 100),
        gguf([field("x", 77, b"")], [], 100),
        gguf([text(b"x" * 70_000)], [], 100),
        gguf([field("general.alignment", U32, struct.pack("<I", 0))], [], 100),
        gguf([], [text("x") + struct.pack("<I", 5)], 100),
        gguf([], [tensor((33,), Q8_0, 0)], 100),
        gguf([], [tensor((HUGE, HUGE, HUGE), F32_TENSOR, 0)], 100),
        gguf([], [tensor((8,), F32_TENSOR, 2**64 - 1)], 100),
        gguf([], [tensor((8,), UNKNOWN, 101)], 100),
    ],
)
def test_numbers_that_cannot_be_true_are_damage(tmp_path: Path, content: bytes) -> None:
    """No memory is taken because they ask for it."""
    assert "copy it again" in wrong(write(tmp_path, content))


def test_a_huge_file_of_zeros_is_answered_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it has fields without end; no more is read than a head can be."""
    monkeypatch.setattr(_gguf_file, "MAX_HEADER", 1 << 20)
    for claims in ((HUGE, 0), (0, HUGE)):
        path = write(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, *claims))
        with path.open("r+b") as file:
            file.truncate(1 << 40)  # a file with a hole takes no room
        assert "names more than a head can hold at byte" in wrong(path)


def test_a_type_that_is_new_is_not_judged(tmp_path: Path) -> None:
    """Only where it begins is."""
    assert _gguf_file.check(write(tmp_path, gguf([], [tensor((9,), UNKNOWN, 96)], 100))) == ""


def test_the_alignment_is_the_files_own(tmp_path: Path) -> None:
    """The tensors begin at a multiple of it."""
    fields = [field("general.alignment", U32, struct.pack("<I", 256))]
    content = gguf(fields, [tensor((8,), F32_TENSOR, 0)], 32, alignment=256)
    assert _gguf_file.check(write(tmp_path, content)) == ""
    assert wrong(write(tmp_path, content[:-1])).startswith("is truncated: 288 bytes are needed")


# -- a model in several files


def part(number: int, count: int) -> str:
    """Return the name of a part."""
    return f"big-{number:05}-of-{count:05}.gguf"


def test_all_parts_of_a_model_are_looked_at(tmp_path: Path) -> None:
    """Every one is there and whole."""
    paths = [write(tmp_path, WHOLE, part(number, 3)) for number in (1, 2, 3)]
    assert _gguf_file.check(paths[0]) == "llama"
    assert _gguf_file.parts(paths[0]) == paths
    write(tmp_path, WHOLE[:-1], part(3, 3))
    found = wrong(paths[0])
    assert found.startswith(f"has further parts: {part(3, 3)} is truncated: {len(WHOLE)} bytes")


def test_missing_parts_are_counted_and_named(tmp_path: Path) -> None:
    """As far as there is room for it."""
    first = write(tmp_path, WHOLE, part(1, 3))
    assert wrong(first).startswith(
        f"is one of 3 parts, of which 2 are missing: {part(2, 3)}, {part(3, 3)}; copy"
    )
    write(tmp_path, WHOLE, part(2, 3))
    assert f"1 is missing: {part(3, 3)}; copy" in wrong(first)


def test_a_later_part_names_the_first(tmp_path: Path) -> None:
    """Which is what llama.cpp wants."""
    second = write(tmp_path, WHOLE, part(2, 3))
    first = tmp_path / part(1, 3)
    assert wrong(second) == f"is part 2 of 3; the first one is needed: {first}"


# -- the library as a judge


@pytest.mark.slow
def test_the_blocks_are_those_of_the_library() -> None:
    """Every type that it knows has the size it has here."""
    found = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs it")
    folder = Path(found.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    for kind, (values, size) in _gguf_file.BLOCKS.items():
        found = (library.ggml_blck_size(kind), library.ggml_type_size(kind))
        assert (kind, *found) == (kind, values, size)
