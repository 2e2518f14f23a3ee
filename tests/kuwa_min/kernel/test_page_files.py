"""The files of the chat page, as the embedded Kernel serves them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kuwa_min.kernel import page_files
from kuwa_min.kernel.embedded import EmbeddedKernel
from tests.support.programs import ROOT, call, fetch

PAGE = ROOT / "kuwa_min/kernel/page"
SOURCES = sorted(path for path in PAGE.rglob("*.*") if path.suffix in (".js", ".css"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[str]:
    """Return the address of an embedded Kernel."""
    with EmbeddedKernel("127.0.0.1", 0) as one:
        yield one.url


@pytest.mark.parametrize("path", ["", "page/page.js", "page/style/page.css"])
def test_every_file_is_guarded(kernel: str, path: str) -> None:
    """By a policy without exceptions; a newer version of a file is seen at once."""
    with call(kernel + path) as response:
        policy = response.getheader("Content-Security-Policy") or ""
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert response.getheader("X-Content-Type-Options") == "nosniff"
        assert response.getheader("Cache-Control") == "no-cache"
        suffix = path[path.rfind(".") :] if path else ".html"
        assert response.getheader("Content-Type") == page_files.CONTENT_TYPES[suffix]


def test_every_file_of_the_folder_is_served_whole(kernel: str) -> None:
    """Those of its folders, too; nothing else is, nor anything above it."""
    for path in SOURCES:
        name = path.relative_to(PAGE).as_posix()
        assert fetch(f"{kernel}page/{name}") == (200, path.read_text(encoding="utf-8"))
    for name in ("", "index.html", "../embedded.py", "%2e%2e/embedded.py", "style"):
        assert fetch(f"{kernel}page/{name}")[0] in (400, 404)


def test_index_asks_for_files_that_are_served_and_has_nothing_inline(kernel: str) -> None:
    """A policy without exceptions would stop what is."""
    status, page = fetch(kernel)
    assert status == 200
    assert page.lower().startswith("<!doctype html>")
    assert 'data-version="v1.0"' in page
    asked = re.findall(r'(?:src|href)="(page/[^"]+)"', page)
    assert len(asked) > 3
    assert [name for name in asked if fetch(kernel + name)[0] != 200] == []
    assert not re.search(r"<style|<script(?! type=\"module\" src)|\son\w+=|\sstyle=", page)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_source_is_short_and_names_no_other_host(path: Path) -> None:
    """Every import is of a file of ours."""
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 300
    assert "//" not in re.sub(r"(^|\s)//\s.*|http://www.w3.org/", "", source)
    for name in re.findall(r'(?:from|import) "([^"]+)"', source):
        assert (path.parent / name).is_file()


def test_the_page_is_told_which_libraries_its_file_carries(tmp_path: Path) -> None:
    """Those in the folder; none in a checkout, where the page shows plain text."""
    for name in ("index.html", "libraries/marked.js", "libraries/marked.LICENSE.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((PAGE / name).read_bytes() if "/" not in name else b"1")
    served = page_files.responses(tmp_path, "v1.0")
    assert list(served) == ["/page/libraries/marked.js", "/"]
    assert b'data-libraries="marked"' in served["/"].body
    assert b'data-libraries=""' in page_files.responses(PAGE, "v1.0")["/"].body


def test_chinese_texts_use_the_polite_pronoun() -> None:
    """As most of Kuwa's front end does."""
    texts = (PAGE / "texts.js").read_text(encoding="utf-8")
    assert "您" in texts
    assert "你" not in texts
