"""Ask, open and search stored chats of the page."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.fakes.kuwa.executor_answers import Executor

from .chat_page import Page, set_answer

TITLES = "#chats .title"
LAST = ".message:last-child"


def form(model: Executor) -> dict[str, Any]:
    """Return the last request that was a chat."""
    fields = {key: value for key, [value] in parse_qs(model.bodies[-1].decode()).items()}
    return {**fields, "input": json.loads(fields["input"])}


def said(*messages: str) -> list[dict[str, Any]]:
    """Return a history: questions and answers in turn."""
    return [{"isbot": bool(index % 2), "msg": one} for index, one in enumerate(messages)]


def settle(page: Page) -> None:
    """Wait until all is kept: saves come one after the other."""
    page.run("await (await load('chats/session')).save({})")


def ask(page: Page, model: Executor, question: str, answer: str) -> None:
    """Get an answer to a question, and wait until it is kept."""
    set_answer(model, answer)
    page.say(question)
    assert page.whole() == answer
    page.wait(lambda: page.texts(f"{LAST} .retry"))
    settle(page)


def open_chat(page: Page, title: str) -> None:
    """Choose a chat of the list."""
    items = "//nav//button[contains(@class, 'open')][.//span[text()=$title]]"
    page.click(items.replace("$title", f"'{title}'"), By.XPATH)


def open_menu(page: Page, title: str = "") -> None:
    """Open the menu of a chat of the list, the first unless a title is given."""
    label = f"Rename, export or delete “{title}"
    page.click(f"#chats .more[aria-label^='{label}']")
    page.wait(lambda: page.one(".chat_menu").is_displayed())


def search(page: Page, words: str) -> list[str]:
    """Search, and return the titles of what is found."""
    box = page.one("#chats input")
    box.send_keys(Keys.CONTROL + "a", Keys.BACKSPACE)
    page.wait(lambda: page.texts("#chats .found") == [""])
    # At once: a part of words that are typed slowly would be searched for, too.
    page.driver.execute_cdp_cmd("Input.insertText", {"text": words})
    page.wait(lambda: page.texts("#chats .found") != [""])
    return page.texts(TITLES)
