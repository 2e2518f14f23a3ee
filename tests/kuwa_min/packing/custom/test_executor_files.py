"""Which files make a custom executor, and what it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.custom.executor_files import Executor, find_executor, is_custom

EXECUTOR = '"""{}"""\nfrom kuwa.executor import LLMExecutor\nclass Mine(LLMExecutor): ...\n'
FILES = {  # as Kuwa's own executors lie: a main file, modules in src/, data beside
    "pipe/main.py": EXECUTOR.format("[Tool] Pipe.\n\nMore.") + "from src.text import cut\n",
    "pipe/src/text.py": "import deep.inner\n",
    "pipe/deep/__init__.py": "",
    "pipe/deep/inner.py": "",
    "pipe/unused.py": "",
    "pipe/lang/en.yml": "en:\n",
    "pipe/.git/config": "",
    "pipe/src/__pycache__/text.pyc": "",
    "docqa/docqa.py": EXECUTOR.format(""),
    "docqa/searchqa.py": EXECUTOR.format(""),
    "mixed/one.py": EXECUTOR.format(""),
    "mixed/two.py": EXECUTOR.format(""),
    "starter/main.py": "from impl.bot import Bot\nBot().run()\n",
    "starter/impl/bot.py": EXECUTOR.format("[Tool] A bot."),
    "starter/setup.py": "",
    "empty/notes.py": "class Executor: ...\n",
    "debug.py": EXECUTOR.format(""),
    "verify.py": EXECUTOR.format(""),
    "爬蟲.py": EXECUTOR.format(""),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write all of them."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def found(path: Path, *with_files: Path) -> Executor:
    """Find an executor beside a backend called debug."""
    return find_executor(path, with_files, ["debug"])


def test_a_source_brings_what_it_imports_from_beside_it(tree: Path) -> None:
    """main.py is called as its folder; what it says of itself is the card of --list."""
    executor = found(tree / "pipe" / "main.py")
    assert (executor.name, executor.summary) == ("pipe", "[Tool] Pipe.")
    assert executor.mains == {"pipe": "main.py"}
    assert [*executor.files] == ["deep/__init__.py", "deep/inner.py", "main.py", "src/text.py"]


def test_a_folder_travels_whole(tree: Path) -> None:
    """But hidden files and bytecode."""
    assert {"unused.py", "lang/en.yml"} < {*found(tree / "pipe").files}
    assert not [path for path in found(tree / "pipe").files if "git" in path or "pyc" in path]


def test_a_folder_may_hold_several_executors(tree: Path) -> None:
    """That of the folder's name is first; without it, one must be named."""
    executor = found(tree / "docqa")
    assert [*executor.mains.items()] == [("docqa", "docqa.py"), ("searchqa", "searchqa.py")]
    assert executor.summary == "[Tool] A custom executor."
    with pytest.raises(UsageError, match=r"several executors \(one\.py, two\.py\): name one"):
        found(tree / "mixed")


def test_a_class_may_come_from_a_module_beside(tree: Path) -> None:
    """The source that starts it is the executor, not that module."""
    for path in (tree / "starter", tree / "starter" / "main.py"):
        assert found(path)[:3] == ("starter", "[Tool] A bot.", {"starter": "main.py"})
    with pytest.raises(UsageError, match="no class derives from LLMExecutor"):
        found(tree / "starter" / "setup.py")


def test_files_travel_under_their_own_names(tree: Path) -> None:
    """A folder with its name, a file without its folders."""
    executor = found(tree / "docqa/docqa.py", tree / "pipe" / "lang", tree / "pipe/src/text.py")
    assert [*executor.files] == ["docqa.py", "lang/en.yml", "text.py"]


def test_no_file_takes_the_place_of_another_in_silence(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file twice is no harm; a folder may be named by the way up."""
    with pytest.raises(UsageError, match=r"main\.py would take the place of .*pipe/main\.py, as"):
        found(tree / "pipe", tree / "starter" / "main.py")
    monkeypatch.chdir(tree / "pipe" / "src")
    executor = found(tree / "pipe", tree / "pipe" / "main.py", Path("..", "lang"), Path())
    assert {"main.py", "lang/en.yml", "src/text.py"} < {*executor.files}
    assert "pipe/main.py" in found(tree / "docqa", Path("..")).files


REFUSED = {
    "debug.py": "debug is the name of another one, or a verb",
    "verify.py": "verify is the name of another one, or a verb",
    "爬蟲.py": "cannot name an executor",
    "empty": "has no executor",
    "empty/notes.py": "no class derives from LLMExecutor",
    "nowhere.py": "there is no such executor",
    "pipe/lang/en.yml": "there is no such executor",
}


def test_what_is_no_executor_is_one_line(tree: Path) -> None:
    """So is a name that a file has already."""
    (tree / "empty" / "notes.py").write_text("class Plain: ...\n")
    for name, words in REFUSED.items():
        with pytest.raises(UsageError) as error:
            found(tree / name)
        assert words in str(error.value), name


def test_links_and_pipes_are_refused(tree: Path) -> None:
    """Nothing is left out in silence."""
    (tree / "pipe" / "more").symlink_to(tree / "docqa")
    with pytest.raises(UsageError, match="more is a link to a folder"):
        found(tree / "pipe")
    (tree / "docqa" / "gone").symlink_to("nowhere")
    with pytest.raises(UsageError, match="gone leads nowhere"):
        found(tree / "docqa")
    with pytest.raises(UsageError, match="no such file or folder"):
        found(tree / "debug.py".replace("debug", "pipe/main"), tree / "missing")


def test_a_path_is_told_from_a_name(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the current one is a path, too."""
    monkeypatch.chdir(tree)
    assert [is_custom(word) for word in ("a.py", "a/b", "pipe", "huggingface")] == [
        *(True, True, True, False)
    ]
