"""Chats as files: what is exported comes back whole, and hostile files do nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kuwa.executor_answers import Executor

from .chat_page import NEEDS_CHROMIUM, Page, frame, set_answer, text
from .stored_chats import LAST, TITLES, ask, form, open_menu, said

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]

NOTICE = ".notice span"
MESSAGE = {"role": "user", "text": "Hello", "created": 1}
CHAT = {"title": "Title", "created": 1, "updated": 2, "messages": {"a": MESSAGE}}
DEEP = "[" * 100_000
HUGE = "x" * (5 << 20)


@pytest.fixture
def downloads(chats: Page, tmp_path: Path) -> Iterator[Path]:
    """Return the folder in which the page's downloads appear."""
    behavior = {"behavior": "allow", "downloadPath": str(tmp_path)}
    chats.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behavior)
    yield tmp_path
    chats.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "default"})


def downloaded(page: Page, path: Path) -> str:
    """Return the text of a file once it is there."""
    page.wait(path.exists)
    return path.read_text(encoding="utf-8")


def import_file(page: Page, folder: Path, content: str) -> str:
    """Import a file of this content, and return what the page says."""
    path = folder / "chats.json"
    path.write_text(content, encoding="utf-8")
    page.driver.execute_script("document.querySelector('.notice').replaceChildren()")
    page.one("#chats input[type=file]").send_keys(str(path))
    page.wait(lambda: page.texts(NOTICE))
    return page.texts(NOTICE)[0]


def exported(*chats: Any, **changed: Any) -> str:
    """Return the text of a file with these chats."""
    return json.dumps({"format": "kuwa_chats", "version": 1, "chats": chats, **changed})


def test_exported_chats_come_back_whole_and_beside_the_others(
    chats: Page, model: Executor, downloads: Path
) -> None:
    """Branches, notes and settings too; an import has ids of its own, and goes on."""
    ask(chats, model, "One", "A1")
    set_answer(model, "A1 <<<WARNING>>>A note<<</WARNING>>>")
    chats.one(f"{LAST} .retry").click()
    chats.wait(lambda: chats.texts(f"{LAST} .version") == ["2/2"])
    chats.run(
        "(await load('chats/session')).setSettings({ system: 'Be brief.', temperature: 0.5 })"
    )
    history_id = form(model)["history_id"]
    chats.one("#new").click()
    ask(chats, model, "Two", "A2")
    chats.one("#chats .foot button").click()
    content = downloaded(chats, downloads / "kuwa-chats.json")
    assert [one["title"] for one in json.loads(content)["chats"]] == ["Two", "One"]

    assert import_file(chats, downloads, content) == "Imported 2 chats."
    chats.wait(lambda: sorted(chats.texts(TITLES)) == ["One", "One", "Two", "Two"])
    for chat in chats.run("return (await load('chats/session')).store.list()"):
        chats.run("await (await load('chats/session')).openChat(given[0])", chat["id"])
        if chat["title"] == "One":
            assert chats.texts(".version") == ["2/2"]
            assert chats.texts(".note") == ["A note"]
            assert chat["settings"] == {"system": "Be brief.", "temperature": 0.5}
    listed = chats.run("return (await load('chats/session')).store.list()")
    assert len({one["history_id"] for one in listed}) == 4
    ids = [one["history_id"] for one in listed if one["title"] == "One"]
    assert int(history_id) in ids
    ask(chats, model, "More", "A3")
    assert form(model)["input"][-1] == said("More")[0]


def test_one_chat_is_exported_as_markdown_and_as_json(
    chats: Page, model: Executor, downloads: Path
) -> None:
    """Under its title, which a file's name cannot always have."""
    set_answer(model, frame(text("**A1**\n\n- x")), frame(text("<<<WARNING>>>N<<</WARNING>>>")))
    chats.say("../One: <b>?\nmore")
    chats.whole()
    chats.wait(lambda: chats.texts(TITLES))
    open_menu(chats)
    chats.one(".chat_menu .export_markdown").click()
    assert downloaded(chats, downloads / "One b.md") == (
        "# ../One: <b>?\n\n## You\n\n../One: <b>?\nmore\n\n"
        "## Answer (fake)\n\n**A1**\n\n- x\n\n> **Side note:** N\n"
    )
    open_menu(chats)
    chats.one(".chat_menu .export_json").click()
    [chat] = json.loads(downloaded(chats, downloads / "One b.json"))["chats"]
    assert chat["title"] == "../One: <b>?"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is not JSON"),
        (DEEP, "it is not JSON"),
        ("\x00\ud83d".encode("utf-16", "surrogatepass").decode("latin-1"), "it is not JSON"),
        ("null", "this page did not export it"),
        ('{"chats": []}', "this page did not export it"),
        (exported(CHAT, version=2), "its version is not 1"),
        (exported(CHAT, version="1"), "its version is not 1"),
        (exported(chats={}), "chats is not as"),
        (exported(None), "chats[0] is not as"),
        (exported(CHAT, {**CHAT, "title": 5}), "chats[1].title is not as"),
        (exported({**CHAT, "title": "x" * 2000}), "chats[0].title is not as"),
        (exported({**CHAT, "updated": 1e300}), "chats[0].updated is not as"),
        (exported({**CHAT, "settings": []}), "chats[0].settings is not as"),
        (exported({**CHAT, "settings": {"temperature": "1"}}), ".settings.temperature is not as"),
        (exported({**CHAT, "messages": []}), "chats[0].messages is not as"),
        (exported({**CHAT, "messages": {"a": None}}), "messages[0] is not as"),
        (
            exported({**CHAT, "messages": {"a": {**MESSAGE, "role": "system"}}}),
            "messages[0].role is not as",
        ),
        (
            exported({**CHAT, "messages": {"a": {**MESSAGE, "text": HUGE}}}),
            "messages[0].text is not as",
        ),
        (
            exported({**CHAT, "messages": {"a": {**MESSAGE, "notes": [{}]}}}),
            "messages[0].notes[0] is not as",
        ),
        (
            exported({**CHAT, "messages": {"a": {**MESSAGE, "parent": "b"}}}),
            "messages[0].parent is not as",
        ),
        (
            exported({**CHAT, "messages": {"a": {**MESSAGE, "parent": "toString"}}}),
            "messages[0].parent is not as",
        ),
        (
            exported(
                {
                    **CHAT,
                    "messages": {"a": {**MESSAGE, "parent": "b"}, "b": {**MESSAGE, "parent": "a"}},
                }
            ),
            "messages[0].parent is not as",
        ),
        (exported(*[CHAT] * 5001), "chats is not as"),
    ],
    ids=lambda value: value if len(value) < 60 else "",
)
def test_a_file_that_is_not_as_it_should_be_changes_nothing(
    chats: Page, tmp_path: Path, content: str, reason: str
) -> None:
    """One line says where; none of its chats is imported."""
    said = import_file(chats, tmp_path, content)
    assert said.startswith("“chats.json” was not imported: ")
    assert reason in said
    assert "\n" not in said
    assert chats.run("return (await load('chats/session')).store.list()") == []
    assert chats.driver.get_log("browser") == []


def test_an_imported_chat_brings_nothing_but_text(chats: Page, tmp_path: Path) -> None:
    """Markup stays text, unknown keys and ids are left out, foreign pictures not fetched."""
    hostile = "<img src=http://127.0.0.1:1/x onerror=alert(1)><script>alert(1)</script>"
    picture = {"name": hostile * 10, "type": "image/png", "data": "http://127.0.0.1:1/picture.png"}
    question = {**MESSAGE, "text": hostile, "attachments": [picture], "onclick": "alert(1)"}
    answer = {
        **MESSAGE,
        "role": "assistant",
        "parent": "__proto__",
        "text": hostile,
        "created": 2,
        "notes": [hostile],
        "problem": hostile,
        "logs": [{"level": hostile, "text": hostile}],
    }
    content = exported(
        {**CHAT, "id": "../x", "history_id": -5, "title": hostile, "leaf": "b", "evil": 1}
    )
    whole = json.loads(content)
    messages = f'{{"__proto__": {json.dumps(question)}, "b": {json.dumps(answer)}}}'
    content = json.dumps(whole).replace(json.dumps({"a": MESSAGE}), messages)
    chats.requests()
    assert import_file(chats, tmp_path, content) == "Imported 1 chat."
    chats.wait(lambda: chats.texts(TITLES) == [hostile])
    chats.one("#chats .open").click()
    chats.wait(lambda: chats.answers == [hostile])
    assert chats.texts(".user .text") == [hostile]
    assert hostile in chats.texts(".note")
    assert chats.one(".user .files li").rect["x"] >= chats.one("#log").rect["x"]
    assert chats.texts("#log img, #log script, #chats img") == []
    [chat] = chats.run("return (await load('chats/session')).store.list()")
    fields = "id history_id title created updated access_code settings leaf"
    assert set(chat) == set(fields.split())
    assert len(chat["id"]) == 24
    assert chat["history_id"] > 0
    addresses = [request["url"] for request in chats.requests()]
    assert [one for one in addresses if not one.startswith((chats.url, "data:", "file:"))] == []
    assert chats.driver.get_log("browser") == []
