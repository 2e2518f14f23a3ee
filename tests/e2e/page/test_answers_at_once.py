"""Answers that go on while another chat is on the screen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from tests.fakes.kuwa.executor_answers import Executor
from tests.support.programs import fetch

from .chat_page import NEEDS_CHROMIUM, Page, begin_answer, set_answer
from .stored_chats import LAST, TITLES, ask, form, open_chat, open_menu, said, search, settle

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]

ANSWERING = "#chats li:has(.answering) .title"
MOST = 4  # answers at once


@pytest.fixture
def endpoints(small_kernel: str, model: Executor) -> Iterator[None]:
    """Let the executor have more endpoints than the page uses."""
    forms = [{"name": "fake", "endpoint": f"{model.url}/chat/{index}"} for index in range(MOST)]
    for one in forms:
        assert fetch(f"{small_kernel}v1.0/worker/register", one)[1] == "Success"
    yield
    for one in forms:
        fetch(f"{small_kernel}v1.0/worker/unregister", one)


def begin(page: Page, question: str) -> None:
    """Ask in a new chat, and wait for the first words."""
    page.one("#new").click()
    page.say(question)
    assert page.partial() == "The first half"
    page.wait(lambda: question in page.texts(ANSWERING))


@pytest.mark.usefixtures("endpoints")
def test_an_answer_goes_on_while_another_chat_is_shown(chats: Page, model: Executor) -> None:
    """The list says which chats are being answered; coming back shows the answer, still busy."""
    set_answer(model, " and the rest.")
    begin_answer(model, "The first half")
    begin(chats, "One")
    begin(chats, "Two")
    assert sorted(chats.texts(ANSWERING)) == ["One", "Two"]
    assert chats.answers == ["The first half"]
    open_chat(chats, "One")
    chats.wait(lambda: chats.texts(".user .text") == ["One"])
    assert chats.look() == (True, "The first half")
    assert chats.one("#stop").is_displayed()
    assert chats.texts(f"{LAST} .retry") == []
    chats.one("#new").click()
    assert chats.one("#send").is_displayed()

    model.go_on.set()
    chats.wait(lambda: chats.texts(ANSWERING) == [])
    assert chats.texts(".message") == []
    open_chat(chats, "Two")
    chats.wait(lambda: chats.answers == ["The first half and the rest."])
    chats.driver.back()
    chats.driver.back()
    chats.wait(lambda: chats.texts(".user .text") == ["One"])
    assert chats.answers == ["The first half and the rest."]
    chats.driver.refresh()
    chats.wait(lambda: chats.answers == ["The first half and the rest."])
    assert "Unfinished" not in chats.texts(".meta")[0]
    model.first = b""
    ask(chats, model, "More", "A2")
    assert form(model)["input"] == said("One", "The first half and the rest.", "More")
    assert chats.driver.get_log("browser") == []


@pytest.mark.usefixtures("endpoints")
def test_one_of_several_answers_is_stopped_and_one_deleted(chats: Page, model: Executor) -> None:
    """The others go on."""
    set_answer(model, " and the rest.")
    begin_answer(model, "The first half")
    for question in ("One", "Two", "Three"):
        begin(chats, question)
    chats.one("#stop").click()
    chats.wait(lambda: chats.texts(".meta")[0].startswith("Stopped"))
    chats.wait(lambda: sorted(chats.texts(ANSWERING)) == ["One", "Two"])
    open_chat(chats, "One")
    chats.wait(lambda: chats.texts(".user .text") == ["One"])
    open_menu(chats, "Two")
    chats.one(".chat_menu .delete").click()
    chats.wait(lambda: sorted(chats.texts(TITLES)) == ["One", "Three"])
    assert chats.look() == (True, "The first half")
    model.go_on.set()
    assert chats.whole() == "The first half and the rest."
    chats.wait(lambda: chats.texts(ANSWERING) == [])
    settle(chats)
    assert sorted(chats.texts(TITLES)) == ["One", "Three"]
    open_chat(chats, "Three")
    chats.wait(lambda: chats.texts(".user .text") == ["Three"])
    assert chats.texts(".meta")[0].startswith("Stopped")


@pytest.mark.usefixtures("endpoints")
def test_more_answers_than_the_page_takes_at_once_are_refused(chats: Page, model: Executor) -> None:
    """It says so and keeps the question; Send works once an answer has ended."""
    set_answer(model, " and the rest.")
    begin_answer(model, "The first half")
    for index in range(MOST):
        begin(chats, f"Question {index}")
    chats.one("#new").click()
    chats.say("One more")
    notice = "4 other chats are being answered: wait for one of them, or stop it."
    assert chats.texts(".notice span") == [notice]
    assert chats.one("#message").get_attribute("value") == "One more"
    assert chats.texts(".message") == []
    model.first = b""
    model.go_on.set()
    chats.wait(lambda: chats.texts(ANSWERING) == [])
    chats.one("#send").click()
    assert chats.whole() == " and the rest."


@pytest.mark.usefixtures("endpoints")
def test_a_page_that_is_left_keeps_what_came_of_all_answers(chats: Page, model: Executor) -> None:
    """Also of chats that are not on the screen."""
    begin_answer(model, "The first half")
    begin(chats, "One")
    begin(chats, "Two")
    chats.driver.refresh()
    for title in ("One", "Two"):
        chats.wait(lambda: len(chats.texts(TITLES)) == 2)
        open_chat(chats, title)
        chats.wait(lambda expected=title: chats.texts(".user .text") == [expected])
        assert chats.answers == ["The first half"]
        assert chats.texts(".meta")[0].startswith("Unfinished")


@pytest.mark.usefixtures("endpoints")
def test_a_chat_deleted_while_answered_and_put_back_is_not_listed_as_answered(
    chats: Page, model: Executor
) -> None:
    """Its answer is stopped, however long the stop takes; what had come is kept."""
    set_answer(model, " and the rest.")
    begin_answer(model, "The first half")
    begin(chats, "One")
    open_menu(chats, "One")
    chats.one(".chat_menu .delete").click()
    chats.wait(lambda: chats.texts(".notice button"))
    chats.one(".notice button").click()
    chats.wait(lambda: chats.texts(".user .text") == ["One"])
    model.go_on.set()
    chats.wait(lambda: chats.texts(TITLES) == ["One"] and not chats.texts(ANSWERING))
    chats.wait(lambda: chats.texts(f"{LAST} .retry"))
    assert chats.answers == ["The first half"]
    assert chats.texts(".meta")[0].startswith("Stopped")


@pytest.mark.usefixtures("endpoints")
def test_found_chats_can_be_clicked_while_answers_are_stored(chats: Page, model: Executor) -> None:
    """What is stored each second redraws no list that looks the same: a click needs its item."""
    ask(chats, model, "One", "Fine.")
    chats.one("#new").click()
    ask(chats, model, "Two", "Fine.")
    assert sorted(search(chats, "fine")) == ["One", "Two"]
    mouse = ActionChains(chats.driver)
    item = chats.driver.find_element(By.XPATH, "//nav//button[.//span[text()='One']]")
    mouse.click_and_hold(item).perform()
    for _ in range(3):  # a list is drawn after a few reads, and a save waits for those before it
        settle(chats)
    mouse.release().perform()
    chats.wait(lambda: chats.texts(".user .text") == ["One"])
