"""The lock: its bytes, reading it back, and what it is refused for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.wheels.lock import Lock, Pin, SourcePin, check, read_lock, read_pins
from kuwa_min.packing.wheels.target import TargetPython
from tests.support.saved_as import SAVED_AS

TARGET = TargetPython("3.12", "manylinux_2_28_x86_64")
ONE, TWO = "1" * 64, "2" * 64
TORCH = Pin("torch", "2.13.0+cpu", (ONE,))
NUMPY = Pin("numpy", "2.4.6", (ONE, TWO))
LOCK = Lock("huggingface", TARGET, (NUMPY, TORCH), "cpu")
TEXT = f"""\
# kuwa lock: the packages of one file; build.py --lock makes it, pip can read it
# backend: huggingface
# python: 3.12
# platform: manylinux_2_28_x86_64
# torch: cpu

numpy==2.4.6 \\
    --hash=sha256:{ONE} \\
    --hash=sha256:{TWO}
torch==2.13.0+cpu \\
    --hash=sha256:{ONE}
"""
SOURCE = SourcePin(NUMPY, (Pin("cmake", "4.0", (ONE, TWO)), Pin("ninja", "1.13", (TWO,))))
WITH_SOURCE = LOCK.with_source(SOURCE)
TOOLS = f"""\
# source: numpy
# tool: cmake==4.0 --hash=sha256:{ONE} --hash=sha256:{TWO}
# tool: ninja==1.13 --hash=sha256:{TWO}
"""


def test_the_same_lock_is_the_same_text() -> None:
    """Whatever order packages and hashes came in."""
    assert LOCK.text() == TEXT
    turned = Pin("numpy", "2.4.6", (TWO, ONE, TWO))
    assert LOCK._replace(pins=(TORCH, turned)).text() == TEXT


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """And written again, it is the same."""
    path = tmp_path / "kuwa.lock"
    for lock in (LOCK, LOCK._replace(torch_variant="", host_packages=("numpy", "torch"))):
        path.write_text(lock.text(), encoding="utf-8")
        assert read_lock(path) == lock
        assert read_lock(path).text() == lock.text()


def test_a_lock_names_its_source_and_what_compiles_it(tmp_path: Path) -> None:
    """The source is a line as any other, so pip takes it; tools are comments for pip."""
    text = TEXT.replace("# torch: cpu\n", f"# torch: cpu\n{TOOLS}")
    assert WITH_SOURCE.text() == text
    path = tmp_path / "kuwa.lock"
    path.write_text(text, encoding="utf-8")
    assert read_lock(path) == WITH_SOURCE
    assert WITH_SOURCE.with_compiled(NUMPY) == LOCK


def test_names_are_read_as_the_index_spells_them() -> None:
    """Comments and empty lines are nothing."""
    text = f"# a comment\n\nJinja2==3.1.6 --hash=sha256:{ONE}\n  # via\nA_B.c==1\n"
    assert read_pins(text, "here") == (Pin("a-b-c", "1", ()), Pin("jinja2", "3.1.6", (ONE,)))


def test_a_narrowed_lock_names_the_files_that_were_used() -> None:
    """So every later build takes the same ones."""
    assert LOCK.narrowed([TWO, ONE]) == LOCK
    assert LOCK.narrowed([ONE]).pins == (NUMPY._replace(hashes=(ONE,)), TORCH)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("numpy==1\n", "is not a kuwa lock"),
        (TEXT.replace("# python: 3.12\n", ""), "does not say its python"),
        (TEXT.replace("3.12", "2.7"), "--python is '2.7'"),
        (TEXT.replace("# torch", "# source: other\n# torch"), "does not pin its source other"),
        (TEXT.replace("# torch", f"{TOOLS}# tool: b>1\n# torch"), "not name==version"),
        (TEXT + "torch>=2\n", "a line that is not name==version with hashes: torch>=2"),
        (TEXT + "-r other.txt\n", "a line that is not name==version with hashes: -r other.txt"),
        (TEXT + "a @ https://example.org/a.whl\n", "a line that is not name==version"),
        (TEXT.replace(f"{ONE} \\", f"{ONE[:-1]} \\"), "a line that is not name==version"),
    ],
)
def test_what_is_no_lock(tmp_path: Path, text: str, words: str) -> None:
    """One line says which file and why."""
    path = tmp_path / "kuwa.lock"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_lock(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_lock_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    """The first line says how to make one."""
    path = tmp_path / "kuwa.lock"
    with pytest.raises(UsageError, match=r"there is no lock .*kuwa.lock; build.py --lock"):
        read_lock(path)
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(UsageError, match=r"the lock .*kuwa.lock is damaged: it begins as UTF-16"):
        read_lock(path)


@pytest.mark.parametrize("saved_as", SAVED_AS)
def test_a_lock_saved_on_windows_is_read(tmp_path: Path, saved_as: str) -> None:
    """With its continued lines."""
    path = tmp_path / "kuwa.lock"
    path.write_bytes(SAVED_AS[saved_as](LOCK.text()))
    assert read_lock(path) == LOCK


def test_a_lock_that_does() -> None:
    """Floors are met, local versions and markers are understood."""
    check(LOCK, "huggingface", TARGET, ["torch>=2.6", "numpy", 'tomli; python_version < "3.11"'])
    check(LOCK, "huggingface", TARGET, ["Torch>=2.6,<3"], torch_variant="cpu")


@pytest.mark.parametrize(
    ("backend", "target", "requirements", "words"),
    [
        ("llamacpp", TARGET, (), "is for huggingface, Python 3.12 .* this build for llamacpp,"),
        (
            "huggingface",
            TARGET._replace(python="3.13"),
            (),
            "this build for huggingface, Python 3.13",
        ),
        ("huggingface", TargetPython("3.12", "manylinux_2_17_x86_64"), (), "manylinux_2_17_x86_64"),
        ("huggingface", TARGET, ["transformers>=5.5.0"], "lacks transformers"),
        ("huggingface", TARGET, ["numpy>=2.5"], r"has numpy 2.4.6, needed is >=2.5"),
        ("huggingface", TARGET, ["numpy>"], "'numpy>' is no requirement"),
    ],
)
def test_a_lock_for_something_else(
    backend: str, target: TargetPython, requirements: list[str], words: str
) -> None:
    """One line says what it is for, or what it lacks."""
    with pytest.raises(UsageError, match=words):
        check(LOCK, backend, target, requirements)


def test_a_lock_for_another_torch_or_another_host() -> None:
    """What --cuda and --thin ask for must be what the lock was made with."""
    with pytest.raises(UsageError, match=r"with torch for cpu, this build for .* torch for cu130"):
        check(LOCK, "huggingface", TARGET, (), torch_variant="cu130")
    with pytest.raises(UsageError, match=r"this build for .*, without torch"):
        check(LOCK, "huggingface", TARGET, (), host_packages=["torch"])


def test_a_lock_without_hashes() -> None:
    """Nothing is fetched on trust."""
    bare = LOCK._replace(pins=(NUMPY._replace(hashes=()), TORCH))
    with pytest.raises(UsageError, match="no hashes for numpy;"):
        check(bare, "huggingface", TARGET, ())
    tools = (Pin("cmake", "4.0", ()),)
    with pytest.raises(UsageError, match="no hashes for cmake;"):
        check(LOCK.with_source(SOURCE._replace(tools=tools)), "huggingface", TARGET, ())
