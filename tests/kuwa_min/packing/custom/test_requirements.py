"""requirements.txt, as far as a build can follow one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kuwa_min.errors import UsageError
from kuwa_min.packing.custom.requirements import read_requirements

TEXT = """\
# a comment
requests>=2 # and another

colorama ; sys_platform == "win32"
python-i18n[YAML]
oschmod \\
  ~= 0.3.12
-r "more/other files.txt"
kuwa_executor>=0.4
requests>=2
"""


def test_comments_markers_and_further_files_are_read(tmp_path: Path) -> None:
    """Each once, in order; what the file itself is, is left out."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other files.txt").write_text("-r third.txt\nnumpy", encoding="utf-16")
    (tmp_path / "more" / "third.txt").write_text("kuwa-min\nhttpx#no comment")
    (tmp_path / "all.txt").write_text(TEXT.replace("\n", "\r\n"))
    with pytest.raises(UsageError, match=r"third\.txt: line 2: 'httpx#no"):
        read_requirements(tmp_path / "all.txt")
    (tmp_path / "more" / "third.txt").write_text("kuwa-min\nhttpx")
    assert read_requirements(tmp_path / "all.txt") == [
        *("requests>=2", 'colorama; sys_platform == "win32"', "python-i18n[YAML]"),
        *("oschmod~=0.3.12", "httpx", "numpy"),
    ]


REFUSED = {
    "-e .": "build its wheel",
    "./local": "build its wheel",
    "git+https://host/some.git": "build its wheel",
    "some @ https://host/some.whl": "fetch that wheel",
    "-c limits.txt": "set UV_CONSTRAINT",
    "--extra-index-url https://host/simple": "set UV_DEFAULT_INDEX",
    "--no-index": "--no_index",
    "--pre": "leave this option of pip out",
    "some-1.0-py3-none-any.whl": "write its name, and give its folder by --wheels DIR",
    "-r https://host/all.txt": "leave this option of pip out",
    "-r 'open": "No closing quotation",
    "some==1 --hash=sha256:00": "--lock FILE pins them",
    "some=1": "is no requirement",
    "-r all.txt": "includes itself",
    "-r gone.txt": "cannot be read: No such file",
}


def test_what_is_not_followed_is_named_with_what_to_do(tmp_path: Path) -> None:
    """By file and line."""
    for line, words in REFUSED.items():
        (tmp_path / "all.txt").write_text(f"requests\n{line}\n")
        with pytest.raises(UsageError) as error:
            read_requirements(tmp_path / "all.txt")
        assert words in str(error.value), line
        assert "\n" not in str(error.value)
