"""Where chats are kept: shared by tabs, and in memory where the browser keeps nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.fakes.kuwa.executor_answers import Executor

from .chat_page import NEEDS_CHROMIUM, Page, begin_answer, chromium, set_answer
from .stored_chats import LAST, TITLES, ask, open_chat, open_menu, settle

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]

PROBLEM = "#chats .problem"
COOKIES = "profile.default_content_setting_values.cookies"  # they stand for all that is kept
FORBIDDEN = 2


def stored(page: Page) -> list[str]:
    """Return the texts of all messages that the browser keeps, in the order of their creation."""
    found = page.run(
        "const database = await new Promise(done => {"
        "  const request = indexedDB.open('kuwa_chats');"
        "  request.onsuccess = () => done(request.result);"
        "});"
        "const messages = await new Promise(done => {"
        "  const request = database.transaction('messages').objectStore('messages').getAll();"
        "  request.onsuccess = () => done(request.result);"
        "});"
        "database.close();"
        "return messages.sort((a, b) => a.created - b.created).map(one => one.text);"
    )
    return list(found)


def test_tabs_add_to_each_others_chats(chats: Page, model: Executor) -> None:
    """Two answers to one chat, a new title and a deletion: each tab sees all, nothing is lost."""
    first = chats.driver.current_window_handle
    ask(chats, model, "One", "A1")
    address = chats.driver.current_url
    chats.driver.switch_to.new_window("tab")
    second = chats.driver.current_window_handle
    try:
        chats.driver.get(address)
        chats.wait(lambda: chats.answers == ["A1"])
        ask(chats, model, "Two", "A2")
        chats.driver.switch_to.window(first)
        chats.wait(lambda: chats.answers == ["A1", "A2"])
        ask(chats, model, "Three", "A3")
        chats.driver.switch_to.window(second)
        chats.wait(lambda: chats.answers == ["A1", "A2", "A3"])
        open_menu(chats)
        chats.driver.switch_to.active_element.send_keys("Renamed")
        chats.one(".chat_menu .rename").click()
        chats.driver.switch_to.window(first)
        chats.wait(lambda: chats.texts(TITLES) == ["Renamed"])
        ask(chats, model, "Four", "A4")
        assert chats.texts(TITLES) == ["Renamed"]
        # The other tab deletes the chat that this one goes on with.
        chats.driver.switch_to.window(second)
        open_menu(chats)
        chats.one(".chat_menu .delete").click()
        chats.wait(lambda: chats.texts(TITLES) == [])
        assert stored(chats) == []
        chats.driver.switch_to.window(first)
        chats.wait(lambda: chats.texts(TITLES) == [])
        assert chats.answers == ["A1", "A2", "A3", "A4"]
        ask(chats, model, "Five", "A5")
        questions = ["One", "Two", "Three", "Four", "Five"]
        assert stored(chats)[::2] == questions
        assert stored(chats)[1::2] == ["A1", "A2", "A3", "A4", "A5"]
    finally:
        chats.driver.switch_to.window(second)
        chats.driver.close()
        chats.driver.switch_to.window(first)


def test_a_tab_shows_after_its_answer_what_another_wrote_meanwhile(
    chats: Page, model: Executor
) -> None:
    """The rest of the answer that came in there is not missed."""
    first = chats.driver.current_window_handle
    set_answer(model, " and the rest.")
    begin_answer(model, "The first half")
    chats.say("One")
    assert chats.partial() == "The first half"
    address = chats.driver.current_url
    chats.driver.switch_to.new_window("tab")
    try:
        chats.driver.get(address)
        chats.wait(lambda: chats.answers == ["The first half"])
        chats.say("Two")
        chats.wait(lambda: chats.look() == (True, ""))
        model.go_on.set()
        chats.wait(lambda: chats.answers == ["The first half and the rest."] * 2)
    finally:
        chats.driver.close()
        chats.driver.switch_to.window(first)


def test_two_tabs_write_to_one_chat_at_the_same_time(chats: Page) -> None:
    """Copies of a chat that know nothing of each other's messages are both saved whole."""
    chats.run(
        "const { openStore } = await load('chats/store');"
        "const { createChat, appendMessage, pathTo } = await load('chats/conversation');"
        "const open = () => openStore({ changed() {}, failed() {} });"
        "const [one, other] = [open(), open()], chat = createChat();"
        "const root = appendMessage(chat, null, 'user', { text: 'root' });"
        "await one.save(chat, {});"
        "const copies = [await one.load(chat.id), await other.load(chat.id)];"
        "copies[0].title = 'new title';"
        "const said = copies.map((copy, index) =>"
        "  appendMessage(copy, root.id, 'assistant', { text: `a${index}` }));"
        "await Promise.all(["
        "  one.save(copies[0], { fields: ['title', 'leaf'], messages: [said[0]] }),"
        "  other.save(copies[1], { fields: ['leaf'], messages: [said[1]] }),"
        "]);"
        "window.kept = await one.load(chat.id);"
    )
    kept = chats.run("return window.kept")
    assert sorted(one["text"] for one in kept["messages"].values()) == ["a0", "a1", "root"]
    assert kept["title"] == "new title"
    assert kept["messages"][kept["leaf"]]["text"] == "a1"


def test_full_storage_is_said_and_the_page_goes_on(chats: Page, model: Executor) -> None:
    """What does not fit is in memory; a deletion makes room, and all is kept again."""
    long = "x" * 30_000
    origin = {"origin": chats.url.rstrip("/")}
    # Chromium asks for the quota at a page's first write, and relies on that for a while.
    chats.driver.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {**origin, "quotaSize": 20_000})
    try:
        chats.driver.get("about:blank")
        chats.driver.get(chats.url)
        chats.wait(lambda: chats.rows)
        ask(chats, model, "Kept", "A1")
        chats.one("#new").click()
        ask(chats, model, "Too much", long)
        chats.wait(lambda: "storage is full" in chats.texts(PROBLEM)[0])
        assert chats.texts(TITLES) == ["Too much", "Kept"]
        open_chat(chats, "Kept")
        chats.wait(lambda: chats.answers == ["A1"])
        open_chat(chats, "Too much")
        chats.wait(lambda: chats.answers == [long])
    finally:
        chats.driver.execute_cdp_cmd("Storage.overrideQuotaForOrigin", origin)
    ask(chats, model, "More", "A3")
    chats.wait(lambda: chats.texts(PROBLEM) == [""])
    assert stored(chats) == ["Kept", "A1", "Too much", long, "More", "A3"]


def test_forbidden_storage_is_said_and_the_page_goes_on(
    small_kernel: str, model: Executor, tmp_path: Path
) -> None:
    """Chats are listed, reopened and found as long as the page is open."""
    with chromium(tmp_path, "en-US,en", **{COOKIES: FORBIDDEN}) as driver:
        page = Page(driver, small_kernel)
        page.wait(lambda: "keeps nothing" in page.texts(PROBLEM)[0])
        ask(page, model, "One", "A1")
        page.one("#new").click()
        ask(page, model, "Two", "A2")
        assert page.texts(TITLES) == ["Two", "One"]
        open_chat(page, "One")
        page.wait(lambda: page.answers == ["A1"])
        ask(page, model, "Three", "A3")
        assert page.texts(TITLES) == ["One", "Two"]
        page.one(f"{LAST} .delete").click()
        assert page.answers == ["A1"]
        open_menu(page)
        page.one(".chat_menu .delete").click()
        page.wait(lambda: page.texts(TITLES) == ["Two"])
        assert page.driver.find_elements(By.CSS_SELECTOR, PROBLEM)
        page.driver.refresh()
        page.wait(lambda: page.texts(".notice span") == [] and page.rows)
        assert page.texts(TITLES) == []


def test_what_is_no_message_in_local_storage_is_dropped(chats: Page, model: Executor) -> None:
    """The page says nothing of it, and keeps chats as before."""
    ask(chats, model, "One", "A1")
    for value in ("{", "null", "5", "[]", '{"chat": 5}', '{"id": "a", "chat": "b"}'):
        chats.run("localStorage['kuwa_chats x'] = given[0]", value)
        chats.driver.refresh()
        chats.wait(lambda: chats.answers == ["A1"])
        chats.wait(lambda: chats.run("return Object.keys(localStorage)") == [])
        assert chats.texts(PROBLEM) == [""]
    assert chats.driver.get_log("browser") == []


def test_a_page_that_the_browser_brings_back_keeps_the_newer_answer(
    chats: Page, model: Executor
) -> None:
    """The copy of pagehide does not overwrite a newer answer."""
    begin_answer(model, "The first half")
    chats.say("One")
    chats.partial()
    event = "dispatchEvent(new PageTransitionEvent('{}', {{ persisted: true }}))"
    chats.run(event.format("pagehide"))
    assert len(chats.run("return Object.keys(localStorage)")) == 1
    chats.run(event.format("pageshow"))
    model.go_on.set()
    assert chats.whole().startswith("The first half")
    settle(chats)
    chats.driver.refresh()
    chats.wait(lambda: chats.answers)
    assert chats.texts(".meta")[0].startswith("Stopped")


def test_many_chats_are_listed_in_parts_and_searched_whole(chats: Page) -> None:
    """One word among the messages of all; the list offers the rest."""
    found = chats.run(
        "const { store, addChats } = await load('chats/session');"
        "const { createChat, appendMessage } = await load('chats/conversation');"
        "const { search } = await load('chats/search');"
        "await addChats([...Array(250).keys()].map(index => {"
        "  const chat = createChat();"
        "  appendMessage(chat, null, 'user', { text: `message ${index}` });"
        "  return chat;"
        "}));"
        "const found = [];"
        "for await (const { snippet } of search(store, 'message 123')) found.push(snippet);"
        "return found;"
    )
    assert found == [["", "message", " 123"]]
    chats.wait(lambda: len(chats.texts(TITLES)) == 200)
    chats.one("#chats ul > button").click()
    chats.wait(lambda: len(chats.texts(TITLES)) == 250)
