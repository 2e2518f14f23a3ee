"""GGUF: a damaged head is one line, found without believing any number in it."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import pytest

from backends._local.model_files import gguf as _gguf_file
from backends._local.model_files import gguf_header
from kuwa_min.errors import UsageError
from tests.support.models import tiny_models

U16, U32, F32, STRING, ARRAY, U64 = 2, 4, 6, 8, 9, 10
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


def architecture(path: Path) -> str:
    """Return the architecture that a whole file states."""
    return _gguf_file.check(path).text(gguf_header.ARCHITECTURE)


def wrong(path: Path) -> str:
    """Return the one line that says what is wrong with this file."""
    with pytest.raises(UsageError) as refused:
        _gguf_file.check(path)
    sentence = str(refused.value)
    assert sentence.isprintable()
    return sentence


def test_a_whole_file_says_its_architecture(tmp_path: Path) -> None:
    """Which decides what can be done with it; a file may leave it out."""
    assert architecture(write(tmp_path, WHOLE)) == "llama"
    assert architecture(write(tmp_path, gguf([], [], 0))) == ""


def test_a_real_file_is_whole(tmp_path: Path) -> None:
    """As llama.cpp reads it; one byte less is too few."""
    pytest.importorskip("numpy", reason="the test model's weights are made with it")
    path = tiny_models.write_gguf(tmp_path / "m.gguf")
    assert architecture(path) == "llama"
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
    monkeypatch.setattr(gguf_header, "MAX_HEADER", 1 << 20)
    for claims in ((HUGE, 0), (0, HUGE)):
        path = write(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, *claims))
        with path.open("r+b") as file:
            file.truncate(1 << 40)  # a file with a hole takes no room
        assert "names more than a head can hold at byte" in wrong(path)


def test_a_type_that_is_new_is_not_judged(tmp_path: Path) -> None:
    """Only where it begins is."""
    assert architecture(write(tmp_path, gguf([], [tensor((9,), UNKNOWN, 96)], 100))) == ""


def test_the_alignment_is_the_files_own(tmp_path: Path) -> None:
    """The tensors begin at a multiple of it."""
    fields = [field("general.alignment", U32, struct.pack("<I", 256))]
    content = gguf(fields, [tensor((8,), F32_TENSOR, 0)], 32, alignment=256)
    assert architecture(write(tmp_path, content)) == ""
    assert wrong(write(tmp_path, content[:-1])).startswith("is truncated: 288 bytes are needed")


# -- a model in several files


def part(number: int, count: int) -> str:
    """Return the name of a part."""
    return f"big-{number:05}-of-{count:05}.gguf"


def test_all_parts_of_a_model_are_looked_at(tmp_path: Path) -> None:
    """Every one is there and whole."""
    paths = [write(tmp_path, WHOLE, part(number, 3)) for number in (1, 2, 3)]
    assert architecture(paths[0]) == "llama"
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


def split(number: int, count: int, name: str = "") -> bytes:
    """Return the part that llama-gguf-split writes."""
    fields = [
        *([LLAMA] if number == 1 else []),
        field("split.no", U16, struct.pack("<H", number - 1)),
        field("split.count", U16, struct.pack("<H", count)),
    ]
    return gguf(fields, [tensor((8,), F32_TENSOR, 0)], 32)


def test_parts_with_their_numbers_inside_are_fine(tmp_path: Path) -> None:
    """As llama-gguf-split makes them."""
    paths = [write(tmp_path, split(number, 2), part(number, 2)) for number in (1, 2)]
    assert architecture(paths[0]) == "llama"


@pytest.mark.parametrize("name", ["whole.gguf", part(1, 1), part(1, 2)])
@pytest.mark.parametrize("count", [2, 3])
def test_parts_that_were_joined_are_named(tmp_path: Path, name: str, count: int) -> None:
    """With `cat`: each has a head of its own, and llama.cpp would read the first alone."""
    write(tmp_path, split(2, 2), part(2, 2))
    joined = b"".join(split(number, count) for number in range(1, count + 1))
    found = wrong(write(tmp_path, joined, name))
    assert found.startswith("is several parts of a split model, joined by `cat` or `copy`; ")
    assert f"the {count} parts" in found
    assert found.endswith("`llama-gguf-split --merge`")


@pytest.mark.parametrize(("name", "number"), [("a.gguf", 1), ("a (1).gguf", 2), (part(1, 1), 1)])
def test_a_renamed_part_says_what_its_name_must_be(tmp_path: Path, name: str, number: int) -> None:
    """llama.cpp says "invalid split file name", or takes another number for the first."""
    found = wrong(write(tmp_path, split(number, 3), name))
    assert found.startswith(f"is part {number} of 3 of a split model under another name")
    assert f"NAME-{number:05}-of-00003.gguf" in found


def test_a_part_under_the_name_of_another_is_found(tmp_path: Path) -> None:
    """Whichever was exchanged."""
    first = write(tmp_path, split(1, 2), part(1, 2))
    write(tmp_path, split(1, 2), part(2, 2))
    assert wrong(first).startswith(f"has further parts: {part(2, 2)} is part 1 of 2 of a split")


# -- files that are no language model

KIND = "general.type"
OTHERS = (
    ([field(KIND, STRING, text("adapter")), LLAMA], "is an adapter (LoRA) for a model of the arch"),
    ([LLAMA, field("adapter.type", STRING, text("lora"))], "is an adapter (LoRA) for a model of"),
    ([field("general.architecture", STRING, text("clip"))], "is the part of a model that sees"),
    ([field(KIND, STRING, text("mmproj"))], "is the part of a model that sees pictures (mmproj)"),
    ([field(KIND, STRING, text("imatrix"))], "is an importance matrix (imatrix), which serves"),
    ([LLAMA, field("tokenizer.ggml.model", STRING, text("gpt2"))], "holds a vocabulary and no we"),
    ([field("general.architecture", STRING, text("bert"))], "is an embedding model (it turns"),
    ([LLAMA, field("llama.pooling_type", U32, struct.pack("<I", 3))], "is an embedding model"),
    ([field("general.architecture", STRING, text("flux"))], "makes pictures or films and answers"),
    ([field("general.architecture", STRING, text("wavtokenizer-dec"))], "is for speech and answer"),
    ([field("general.architecture", STRING, text("t5encoder"))], "is the encoder of a T5 model"),
)


@pytest.mark.parametrize(("fields", "words"), OTHERS)
def test_a_file_that_answers_no_chats_says_what_it_is(
    tmp_path: Path, fields: list[bytes], words: str
) -> None:
    """And what is needed instead."""
    tensors = [] if "vocabulary" in words else [tensor((8,), F32_TENSOR, 0)]
    found = wrong(write(tmp_path, gguf(fields, tensors, 32)))
    assert found.startswith(words)
    assert "give the" in found or "is needed" in found


@pytest.mark.parametrize("pooling", [0, 2**32 - 1])
def test_no_pooling_makes_no_embedding_model(tmp_path: Path, pooling: int) -> None:
    """llama.cpp writes -1 where nothing is stated."""
    fields = [LLAMA, field("llama.pooling_type", U32, struct.pack("<I", pooling))]
    assert _gguf_file.check(write(tmp_path, gguf(fields, [tensor((8,), F32_TENSOR, 0)], 32)))


def test_a_download_that_has_not_ended_says_so(tmp_path: Path) -> None:
    """aria2 gives a file its full size at once."""
    path = write(tmp_path, WHOLE)
    (tmp_path / "m.gguf.aria2").write_bytes(b"\0\1")
    assert wrong(path) == (
        "is not complete: m.gguf.aria2 lies beside it, so its download has not ended"
    )
    browser = write(tmp_path, WHOLE[:-1], "n.gguf.crdownload")
    assert wrong(browser).startswith("is, by its name, a download that has not ended; fetch")


# -- the library as a judge


@pytest.mark.slow
def test_the_blocks_are_those_of_the_library() -> None:
    """Every type that it knows has the size it has here."""
    found = pytest.importorskip("llama_cpp", reason="the llamacpp backend needs it")
    folder = Path(found.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    for kind, (values, size) in gguf_header.BLOCKS.items():
        found = (library.ggml_blck_size(kind), library.ggml_type_size(kind))
        assert (kind, *found) == (kind, values, size)
