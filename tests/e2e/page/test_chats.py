"""Chats that the page keeps: reopened, branched, searched, renamed and deleted."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.fakes.kuwa.executor_answers import Executor

from .chat_page import NEEDS_CHROMIUM, Page, begin_answer, frame, set_answer, text
from .stored_chats import LAST, TITLES, ask, form, open_chat, open_menu, said, search, settle

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]


def test_a_reload_shows_all_of_a_chat_and_it_goes_on(chats: Page, model: Executor) -> None:
    """Text, notes, log, exit code, numbers and access code; history_id stays the same."""
    log = {"type": "log", "log": {"level": "WARNING", "text": "It is <b>warm</b>."}}
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    ended = frame({"type": "exit_code", "exit_code": 1}, usage=usage)
    note = frame(text("Yes. <<<WARNING>>>A note<<</WARNING>>>"), log)
    set_answer(model, note, ended)
    chats.say("Is it <i>here</i>?")
    chats.whole()
    parts = (".user .text", ".assistant .text", ".note", ".logs p", ".code", ".meta", TITLES)
    chats.wait(lambda: chats.texts(TITLES))
    before = {part: chats.texts(part) for part in parts}
    assert before[".note"] == ["A note"]
    assert before[".code"] == ["Exit code 1 · incomplete"]
    ids = (form(model)["history_id"], form(model)["user_id"])

    chats.driver.refresh()
    chats.wait(lambda: chats.texts(".meta"))
    assert {part: chats.texts(part) for part in parts} == before
    assert chats.one("#access_code").get_attribute("value") == "fake"
    ask(chats, model, "And now?", "Still here.")
    assert form(model)["input"] == said("Is it <i>here</i>?", "Yes. ", "And now?")
    assert (form(model)["history_id"], form(model)["user_id"]) == ids
    assert chats.driver.get_log("browser") == []


def test_a_reload_in_the_middle_of_an_answer_keeps_what_had_come(
    chats: Page, model: Executor
) -> None:
    """All of it, and it says that this was not the end."""
    begin_answer(model, "The first half")
    chats.say("Tell me all.")
    assert chats.partial() == "The first half"
    chats.driver.refresh()
    chats.wait(lambda: chats.answers == ["The first half"])
    assert chats.texts(".meta")[0].startswith("Unfinished")
    assert chats.texts(".note") == []
    ask(chats, model, "Go on.", "The other half")
    assert form(model)["input"] == said("Tell me all.", "The first half", "Go on.")


def test_an_answer_that_broke_off_is_kept_as_unfinished(chats: Page, model: Executor) -> None:
    """Firefox ends requests of a page that is left before pagehide."""
    begin_answer(model, "The first half")
    model.body = b""  # not the chunk that ends it
    chats.say("One")
    chats.partial()
    model.go_on.set()
    chats.wait(lambda: chats.texts(".note.error"))
    chats.whole()
    assert chats.texts(".note.error") == ["The connection to the Kernel broke off."]
    settle(chats)
    chats.driver.refresh()
    chats.wait(lambda: chats.answers == ["The first half"])
    assert chats.texts(".meta")[0].startswith("Unfinished")
    assert chats.texts(".note") == []


def test_failed_and_empty_answers_are_shown_and_not_sent(chats: Page, model: Executor) -> None:
    """Nor are their questions, so that questions and answers alternate."""
    failed = frame(text("[Half]"), {"type": "exit_code", "exit_code": 1024})
    for answer, meta in ((failed, "failed"), (frame(text(" \n")), "characters")):
        set_answer(model, answer)
        chats.say("Is this left out?")
        chats.wait(lambda expected=meta: expected in chats.texts(f"{LAST} .meta")[0])
    set_answer(model)
    begin_answer(model, frame({"type": "progress", "progress": {"desc": "Reading"}}))
    chats.write("Is this stopped?")
    chats.one("#send").click()
    chats.wait(lambda: chats.texts(f"{LAST} .progress") == ["Reading"])
    chats.one("#stop").click()
    model.go_on.set()
    chats.wait(lambda: chats.texts(f"{LAST} .meta") == ["Stopped"])
    chats.run("(await load('composer')).setDraft('')")
    ask(chats, model, "One", "A1")
    assert form(model)["input"] == said("One")
    ask(chats, model, "Two", "A2")
    assert form(model)["input"] == said("One", "A1", "Two")
    assert chats.answers == ["[Half]", " \n", "", "A1", "A2"]
    assert len(chats.texts(".unanswered")) == 3


def test_edit_and_retry_make_branches_that_one_can_switch_between(
    chats: Page, model: Executor
) -> None:
    """Only the branch on the screen is sent; the keyboard's place is kept; a reload keeps all."""
    ask(chats, model, "One", "A1")
    ask(chats, model, "Two", "A2")
    set_answer(model, "A2 again")
    chats.one(f"{LAST} .retry").click()
    chats.wait(lambda: chats.answers == ["A1", "A2 again"])
    assert form(model)["input"] == said("One", "A1", "Two")
    chats.wait(lambda: chats.texts(f"{LAST} .retry"))
    assert chats.texts(".version") == ["2/2"]
    previous = chats.one(f"{LAST} .previous")
    assert previous.get_attribute("aria-label") == "Previous version"
    previous.send_keys(Keys.ENTER)
    assert chats.answers == ["A1", "A2"]
    assert chats.driver.switch_to.active_element.get_attribute("aria-label") == "Next version"

    set_answer(model, "B1")
    chats.one(".user .edit").click()
    box = chats.driver.switch_to.active_element
    assert box.get_attribute("value") == "One"
    box.send_keys(" and a half", Keys.ENTER)
    chats.wait(lambda: chats.answers == ["B1"])
    assert form(model)["input"] == said("One and a half")
    chats.wait(lambda: chats.texts(f"{LAST} .retry"))
    chats.one(".previous").click()
    assert chats.answers == ["A1", "A2 again"]
    settle(chats)
    chats.driver.refresh()
    chats.wait(lambda: chats.answers == ["A1", "A2 again"])
    assert chats.texts(".version") == ["1/2", "2/2"]


def test_an_edit_can_be_given_up_without_a_trace(chats: Page, model: Executor) -> None:
    """Escape closes the box and gives the focus back; nothing was sent."""
    ask(chats, model, "One", "A1")
    chats.one(".user .edit").click()
    chats.driver.switch_to.active_element.send_keys("x", Keys.ESCAPE)
    assert chats.texts(".editor") == []
    assert chats.driver.switch_to.active_element.text == "Edit"
    assert len(model.bodies) == 1


def test_a_message_is_deleted_with_what_follows_and_comes_back(
    chats: Page, model: Executor
) -> None:
    """Undo restores all; without it the messages are gone for good."""
    ask(chats, model, "One", "A1")
    ask(chats, model, "Two", "A2")
    delete = chats.driver.find_elements(By.CSS_SELECTOR, ".user .delete")[1]
    delete.click()
    assert chats.answers == ["A1"]
    assert chats.texts(".notice span") == ["Deleted 2 messages."]
    chats.one(".notice button").click()
    assert chats.answers == ["A1", "A2"]
    chats.one(f"{LAST} .delete").click()
    chats.one(".notice .close").click()
    assert chats.texts(".notice span") == []
    set_answer(model, "A2 anew")
    chats.one(f"{LAST} .retry").click()
    chats.wait(lambda: chats.answers == ["A1", "A2 anew"])
    assert form(model)["input"] == said("One", "A1", "Two")
    chats.wait(lambda: chats.texts(f"{LAST} .retry"))
    assert chats.texts(".version") == []


def test_an_answer_that_comes_in_stays_when_a_deletion_is_undone_or_words_are_searched(
    chats: Page, model: Executor
) -> None:
    """Escape empties the search before it stops an answer."""
    ask(chats, model, "One", "A1")
    chats.one(f"{LAST} .delete").click()
    begin_answer(model, "The first half")
    chats.say("Two")
    assert chats.partial() == "The first half"
    chats.one(".notice button").click()
    chats.wait(lambda: search(chats, "A1") == ["One"])
    open_chat(chats, "One")
    chats.one("#chats input").send_keys(Keys.ESCAPE)
    chats.wait(lambda: chats.texts("#chats .found") == [""])
    assert chats.look() == (True, "The first half")
    model.go_on.set()
    chats.whole()
    assert not chats.texts(".meta")[-1].startswith("Stopped")
    assert chats.texts(".version") == ["2/2"]


def test_a_message_is_copied(chats: Page, model: Executor) -> None:
    """As it was written, not as it looks."""
    permissions = {"origin": chats.url, "permissions": ["clipboardReadWrite"]}
    chats.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    ask(chats, model, "One", "**bold** <b>")
    chats.one(f"{LAST} .copy").click()
    chats.wait(lambda: chats.texts(".notice span") == ["Copied."])
    assert chats.run("return navigator.clipboard.readText()") == "**bold** <b>"


def test_the_list_has_the_latest_first_and_finds_what_was_said(
    chats: Page, model: Executor
) -> None:
    """Also in branches that are not on the screen; letters of any case and width."""
    ask(chats, model, "About <b>coffee</b>", "It is brown.")
    chats.one("#new").click()
    ask(chats, model, "About tea", "It is green.")
    set_answer(model, "It is blue.")
    chats.one(f"{LAST} .retry").click()
    chats.wait(lambda: chats.texts(f"{LAST} .version") == ["2/2"])
    assert chats.texts(TITLES) == ["About tea", "About <b>coffee</b>"]
    assert chats.one("#chats [aria-current]").text.startswith("About tea")
    open_chat(chats, "About <b>coffee</b>")
    chats.wait(lambda: chats.answers == ["It is brown."])
    ask(chats, model, "More?", "No.")
    chats.wait(lambda: chats.texts(TITLES) == ["About <b>coffee</b>", "About tea"])

    assert search(chats, "ＩＴ  is") == ["About <b>coffee</b>", "About tea"]
    assert chats.texts("#chats .found") == ["Found in 2 chats"]
    assert search(chats, "nowhere") == []
    assert search(chats, "GREEN") == ["About tea"]
    assert chats.texts("#chats mark") == ["green"]
    open_chat(chats, "About tea")
    chats.wait(lambda: chats.answers == ["It is green."])
    assert chats.texts(".version") == ["1/2"]
    chats.driver.back()
    chats.wait(lambda: chats.answers == ["It is brown.", "No."])


def test_a_chat_is_renamed_and_deleted_and_comes_back(chats: Page, model: Executor) -> None:
    """A title is text; the deleted chat leaves the screen."""
    ask(chats, model, "One", "A1")
    open_menu(chats)
    title = chats.driver.switch_to.active_element
    assert title.get_attribute("value") == "One"
    title.send_keys("<i>Two</i>", Keys.ENTER)
    chats.wait(lambda: chats.texts(TITLES) == ["<i>Two</i>"])
    assert not chats.one(".chat_menu").is_displayed()
    ask(chats, model, "More", "A2")
    assert chats.texts(TITLES) == ["<i>Two</i>"]

    open_menu(chats)
    chats.one(".chat_menu .delete").click()
    chats.wait(lambda: chats.texts(TITLES) == [])
    assert chats.answers == []
    assert chats.texts(".notice span") == ["Deleted “<i>Two</i>”."]
    chats.one(".notice button").click()
    chats.wait(lambda: chats.answers == ["A1", "A2"])
    assert chats.texts(TITLES) == ["<i>Two</i>"]


def test_a_chat_that_is_deleted_while_it_is_answered_stays_away(
    chats: Page, model: Executor
) -> None:
    """What still comes in does not bring it back; undo has what had come."""
    begin_answer(model, "Half")
    chats.say("One")
    chats.partial()
    chats.wait(lambda: chats.texts(TITLES))
    open_menu(chats)
    chats.one(".chat_menu .delete").click()
    chats.wait(lambda: chats.texts(TITLES) == [])
    model.go_on.set()
    chats.one("#new").click()
    ask(chats, model, "Two", "A2")
    chats.wait(lambda: chats.texts(TITLES) == ["Two"])
    assert len(chats.run("return (await load('chats/session')).store.list()")) == 1


def test_an_address_without_its_chat_begins_a_new_one(chats: Page) -> None:
    """It says so, and harms nothing."""
    chats.driver.get(f"{chats.url}#<script>no</script>")
    chats.wait(lambda: chats.texts(".notice span") == ["This chat is not in this browser."])
    assert chats.driver.current_url == chats.url
    assert chats.one("#welcome").is_displayed()


def test_a_telephone_has_the_chats_in_a_drawer(chats: Page, model: Executor) -> None:
    """It opens and closes by keyboard, holds the focus, and gives it back."""
    ask(chats, model, "One", "A1")
    chats.one("#new").click()
    screen = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    chats.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        chats.wait(lambda: not chats.one("#chats").is_displayed())
        toggle = chats.one(".toggle")
        assert toggle.get_attribute("aria-expanded") == "false"
        toggle.send_keys(Keys.ENTER)
        box = chats.driver.switch_to.active_element
        assert box.get_attribute("aria-label") == "Search chats"
        assert chats.one("main").get_attribute("inert") == "true"
        box.send_keys(Keys.ESCAPE)
        assert chats.driver.switch_to.active_element == toggle
        assert chats.one("main").get_attribute("inert") == "false"
        toggle.click()
        chats.wait(lambda: chats.one("#chats .open").is_displayed())
        open_chat(chats, "One")
        chats.wait(lambda: chats.answers == ["A1"])
        chats.wait(lambda: not chats.one("#chats").is_displayed())
        width = "return document.body.scrollWidth"
        assert chats.driver.execute_script(width) <= 360
    finally:
        chats.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
