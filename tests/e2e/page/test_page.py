"""The embedded Kernel's chat page in a real browser, with real executor processes behind it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlencode
from urllib.request import urlopen

import pytest
from selenium.webdriver.common.keys import Keys

from kuwa_min.chat.thinking import signs
from tests.fakes.kuwa.executor_answers import chunk
from tests.support.programs import Program, call, fetch, said

from .chat_page import (
    LONG,
    NEEDS_CHROMIUM,
    READY,
    Page,
    answering,
    begin_answer,
    chromium,
    executor,
    frame,
    text,
)

ODD = 'data: {"delta": "abc"}'
PAGES = "pages · 30/120 · 1 s/page"

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]


def test_the_page_loads_without_an_error_and_from_no_other_host(page: Page) -> None:
    """Console and network log of a load and an answer are clean."""
    page.choose("dummy")
    page.say("Hello")
    assert page.whole()
    addresses = [request["url"] for request in page.requests()]
    assert len(addresses) > 3
    assert [one for one in addresses if not one.startswith((page.url, "data:"))] == []
    assert page.driver.get_log("browser") == []


def test_the_page_says_that_it_is_not_a_production_kernel(page: Page) -> None:
    """The reader learns what this is for."""
    assert "Not a production Kernel" in page.one("header").text


def test_an_answer_is_seen_while_it_is_being_written(page: Page, kernel: str) -> None:
    """First a part of the text while busy, in the end all of it."""
    answer = "Here it is: 狀態 <b>not bold</b> & a < b, twice.\n" * 2
    with answering(kernel, answer[20:]) as one:
        begin_answer(one, answer[:20])
        page.choose("fake")
        page.say("Hi")
        assert page.partial() == answer[:20]
        one.go_on.set()
        assert page.whole() == answer
    assert page.texts(".note") == []


def test_stop_keeps_what_was_said_and_the_next_chat_works(page: Page, debug: str) -> None:
    """A stopped answer ends soon, is marked, and leaves the executor usable."""
    page.choose(debug)
    page.say(LONG)
    page.partial()
    page.one("#stop").click()
    kept = page.whole()
    assert kept
    assert LONG.startswith(kept)
    assert kept != LONG
    assert "Stopped" in page.texts(".assistant .meta")[-1]
    page.say("And now?")
    assert page.whole() == "And now?"
    assert page.answers == [kept, "And now?"]


def test_side_notes_stand_apart_and_their_markers_are_never_seen(page: Page) -> None:
    """Notes are taken out of the text on the page, at every moment, and out of the history."""
    page.driver.execute_script(
        "window.leaks = []; new MutationObserver(() => {"
        "  const seen = document.querySelector('#log').textContent;"
        "  if (/<<|>>|WARNING/.test(seen)) leaks.push(seen);"
        "}).observe(document.querySelector('#log'),"
        "  {childList: true, subtree: true, characterData: true})"
    )
    page.choose("dummy")
    page.say("Hello")
    answer = page.whole()
    notes = page.texts(".note")
    assert len(notes) == 1
    assert len(notes[0].splitlines()) == 2  # the executor collects them in one block
    assert not any(note in answer for note in notes[0].splitlines())
    assert page.driver.execute_script("return leaks") == []

    page.requests()
    page.say("Again")
    page.whole()
    sent = [one for one in page.requests() if one["url"].endswith("/chat/completions")]
    assert json.loads(parse_qs(sent[-1]["postData"])["input"][0]) == [
        {"isbot": False, "msg": "Hello"},
        {"isbot": True, "msg": answer},
        {"isbot": False, "msg": "Again"},
    ]


def test_the_table_shows_the_executors_and_who_uses_them(page: Page, debug: str) -> None:
    """Both executors are listed; the one that answers this chat is marked."""
    page.wait(lambda: len(page.rows) == 2)
    columns = ["Access code", "Endpoint", "State", "Free", "Queue", "Used by", "Action"]
    assert page.texts("#executors th") == columns
    assert re.match(r"debughttp://127\.0\.0\.1:\d+/chatREADY", page.rows[0])
    assert re.match(r"dummyhttp://127\.0\.0\.1:\d+/chatREADY", page.rows[1])
    page.choose(debug)
    page.say(LONG)
    page.wait(lambda: page.texts("#executors tr.mine td"))
    mine = page.texts("#executors tr.mine td")
    history_id, user_id = re.findall(r"\d+", page.one("#me").text)[::-1]
    assert mine[5] == f"history {history_id}, user {user_id}"
    assert page.one("#access_code").get_attribute("value") == debug
    page.one("#stop").click()
    page.whole()
    page.wait(lambda: not page.texts("#executors tr.mine"))


def test_an_answer_of_0_4_shows_each_kind_of_chunk(page: Page, kernel: str) -> None:
    """Text, log, exit code and tokens; the progress is gone at the end."""
    log = {"level": "WARNING", "text": "The model is <b>warm</b>.", "timestamp": "x"}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    lines = [
        frame({"type": "progress", "progress": {"position": 1, "total": 4, "desc": "Queue"}}),
        frame(text("Hello"), text(" 中 <b>&amp;</b>\n")),
        frame({"type": "log", "log": log}, {"type": "new"}, {}),
        frame({"type": "image_url", "image_url": "http://x/y.png"}),
        frame(text("data: <<<WARN"), text("ING>>>A note<<</WARNING>>>")),
        frame({"type": "exit_code", "exit_code": 1}),
        frame({"type": "exit_code", "exit_code": 1024}, finish_reason="exception", usage=usage),
    ]
    with answering(kernel, *lines) as one:
        page.choose("fake")
        page.say("Hi")
        page.wait(lambda: page.texts(".code"))
        assert page.whole() == "Hello 中 <b>&amp;</b>\ndata: "
        assert "x-kuwa-user-id: " in one.requests[0][1]
    assert page.texts(".logs p") == ["WARNINGThe model is <b>warm</b>.", "IMAGEhttp://x/y.png"]
    assert page.texts(".logs p.warning b") == ["WARNING"]
    assert page.texts(".note") == ["A note"]
    assert page.texts(".code") == ["Exit code 1024 · failed"]
    assert page.texts(".progress") == []
    assert "5 + 7 tokens" in page.texts(".assistant .meta")[0]
    assert page.driver.get_log("browser") == []


def test_a_progress_is_shown_while_the_answer_is_awaited(page: Page, kernel: str) -> None:
    """A ping of the queue is a line or a bar; Stop works meanwhile."""
    waiting = {"position": 0, "total": 0, "desc": "waiting in the queue", "postfix": None}
    loading = {"position": 30, "total": 120, "desc": "pages", "postfix": "1 s/page"}
    thinking = {"position": 7, "total": 0, "desc": signs.THINKING, "postfix": "7 tokens"}
    for progress, shown, bars in (
        (waiting, "waiting in the queue", 0),
        (loading, PAGES, 1),
        (thinking, "Thinking… · 7 tokens", 0),
    ):
        part = {"type": "progress", "progress": progress}
        with answering(kernel, frame(text("done"))) as one:
            one.first = chunk(frame(part))
            page.choose("fake")
            page.say("Hi")
            page.wait(lambda expected=shown: page.texts(".progress") == [expected])
            assert len(page.texts("progress")) == bars
            one.go_on.set()
            assert page.whole() == "done"
    assert page.texts(".progress") == []


@pytest.mark.parametrize("repeated", [True, False])
def test_a_refusal_is_text_once_and_marked(page: Page, kernel: str, repeated: bool) -> None:
    """Executors that repeat it for the real front end are shown like those that do not."""
    refusal = {"type": "refusal", "refusal": {"text": "I may not."}}
    line = frame(refusal, text("I may not.")) if repeated else frame(refusal)
    with answering(kernel, line, frame({"type": "exit_code", "exit_code": 0})):
        page.choose("fake")
        page.say("Hi")
        page.wait(lambda: "The model refused" in page.texts(".assistant .meta")[0])
        assert page.whole() == "I may not."
    assert page.texts(".code") == []


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["data: raw text", " goes on\n", "data: {not JSON}\n"], None),
        (["da", "t"], None),
        (['data: {"delta": 5}\n', "x"], None),
        ([frame(text("a")), "raw\n", f"{ODD}\n", frame(text("b"))], f"araw\n{ODD}\nb"),
        ([frame(text("a")) + frame(text("b"))[:-1]], "ab"),
        ([frame(text("a"), {"type": "toString"}, {"type": "text", "text": 5})], "a"),
        (['data: {"delta": [5, null, "x", []]}\n', frame(text("a"))], "a"),
    ],
)
def test_raw_text_is_told_from_framed_lines(
    page: Page, kernel: str, lines: list[str], shown: str | None
) -> None:
    """Executors of 0.3 are read as they are; what is no frame is text."""
    with answering(kernel, *lines):
        page.choose("fake")
        page.say("Hi")
        page.wait(lambda: page.texts(".assistant .meta")[0].endswith("characters"))
        assert page.whole() == ("".join(lines) if shown is None else shown)
    assert page.driver.get_log("browser") == []


def test_an_executor_is_shut_down_after_a_question(page: Page, kernel: str) -> None:
    """Cancel leaves it alone; a refusal of the executor is told."""
    with answering(kernel, "x") as one:
        row = "#executors tr:has(button[aria-label*=fake])"
        page.wait(lambda: page.texts(row))
        page.one(f"{row} button").click()
        assert page.focused == "cancel"
        assert one.url in page.one("dialog").text
        page.driver.switch_to.active_element.send_keys(Keys.ENTER)
        assert not page.one("dialog").is_displayed()
        assert one.requests == []
        page.one(f"{row} button").click()
        page.one("#confirm").click()
        page.wait(lambda: [line for line, _ in one.requests] == ["GET /shutdown"])
        page.wait(lambda: page.texts("#executors tr.leaving"))
        assert page.texts("#executors tr.leaving .state") == ["LEAVING"]
    page.wait(lambda: not page.texts("#executors tr.leaving"))

    with answering(kernel, "x") as one:
        one.status = b"403 Forbidden"
        page.wait(lambda: page.texts(row))
        page.one(f"{row} button").click()
        page.one("#confirm").click()
        page.wait(lambda: page.one("#refusal").is_displayed())
        assert "403" in page.one("#refusal").text


def test_an_executor_that_was_shut_down_leaves_the_table(
    page: Page, kernel: str, dist: Path
) -> None:
    """The real one: it unregisters and its process ends."""
    options = ("debug", "--kernel_url", kernel, "--access_code", "brief")
    with Program(*options, command=(sys.executable, str(dist / "kuwa-debug.pyz"))) as program:
        program.wait_for(READY)
        row = "#executors tr:has(button[aria-label*=brief])"
        page.wait(lambda: page.texts(row))
        page.one(f"{row} button").click()
        page.one("#confirm").click()
        page.wait(lambda: not any("brief" in one for one in page.rows))
        assert program.end() == 0


def test_a_chat_in_the_queue_says_so_until_its_turn(page: Page, kernel: str, dist: Path) -> None:
    """The executor has one slot, in which another user's answer runs."""
    options = ("debug", "--kernel_url", kernel, "--access_code", "queue", "--delay", "0.02")
    command = (sys.executable, str(dist / "kuwa-debug.pyz"))
    with Program(*options, command=command) as program:
        program.wait_for(READY)
        ids = {"name": "queue", "history_id": "1", "user_id": "1"}
        assert fetch(f"{kernel}v1.0/worker/schedule", ids)[1] == "READY"
        page.choose("queue")
        with call(f"{kernel}v1.0/chat/completions", {**ids, **said(LONG)}) as other:
            assert other.read(1)
            page.say("My turn?")
            page.wait(lambda: page.texts(".progress"))
            assert page.texts(".progress") == ["Waiting for a free slot… (1 of 1 in the queue)"]
            page.wait(lambda: "1 waiting" in page.texts("#executors .queue"))
        assert page.whole() == "My turn?"
        fetch(f"{kernel}v1.0/worker/unregister", {"name": "queue", "endpoint": program.url})


def test_the_endpoints_of_an_executor_make_one_row(page: Page, kernel: str) -> None:
    """It says how many are free, and who uses the others."""
    with answering(kernel, "x") as one:
        for index in (1, 2):
            form = {"name": "fake", "endpoint": f"{one.url}/chat/{index}"}
            fetch(f"{kernel}v1.0/worker/register", form)
        fetch(f"{kernel}v1.0/worker/schedule", {"name": "fake", "history_id": "7", "user_id": "3"})
        row = "#executors tr:has(button[aria-label*=fake]) td"
        page.wait(lambda: "2 of 3 free" in page.texts(row))
        shown = ["fake", f"{one.url}/chat", "READY", "2 of 3 free", "", "history 7, user 3"]
        assert page.texts(row)[:6] == shown


def test_a_new_chat_begins_empty_even_while_an_answer_comes_in(page: Page, kernel: str) -> None:
    """It has another id; its question has no history."""
    with answering(kernel, "Fine.") as one:
        begin_answer(one, "The first half")
        page.choose("fake")
        before = page.one("#me").text
        page.say("Tell me all.")
        assert page.partial() == "The first half"
        page.one("#new").click()
        assert page.texts(".message") == []
        assert page.one("#me").text != before
        page.requests()
        one.first = b""
        one.go_on.set()
        page.say("Fresh")
        assert page.whole() == "Fine."
    sent = [one for one in page.requests() if one["url"].endswith("/chat/completions")]
    assert json.loads(parse_qs(sent[-1]["postData"])["input"][0]) == [
        {"isbot": False, "msg": "Fresh"}
    ]


def test_the_keyboard_is_enough(page: Page, debug: str) -> None:
    """Type, new line, send and stop without a mouse; the focus never gets lost."""
    page.choose(debug)
    box = page.one("#message")
    box.send_keys("")
    assert page.focused == "message"
    box.send_keys("two", Keys.SHIFT + Keys.ENTER + Keys.NULL, "lines")
    assert page.texts(".message") == []
    box.send_keys(Keys.ENTER)
    assert page.whole() == "two\nlines"
    assert page.focused == "message"
    page.write(LONG)
    box.send_keys(Keys.ENTER)
    page.partial()
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert page.whole() != LONG
    assert page.focused == "message"


def test_an_input_method_that_is_choosing_characters_does_not_send(page: Page) -> None:
    """Enter during a composition belongs to the input method."""
    page.one("#message").send_keys("ㄋㄧˇ")
    page.driver.execute_script(
        "document.querySelector('#message').dispatchEvent(new KeyboardEvent("
        "'keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    assert page.texts(".message") == []


def test_an_executor_that_left_is_told_and_the_question_is_offered_again(
    page: Page, kernel: str, dist: Path
) -> None:
    """No machine: an error note, and the question is back in the box; a new chat takes another."""
    options = ("--kernel_url", kernel, "--access_code", "brief")
    with executor("debug", *options, dist=dist, until=READY):
        page.choose("brief")
    page.say("Anybody?")
    page.wait(lambda: page.texts(".note.error"))
    page.whole()
    assert "brief" in page.texts(".note.error")[0]
    assert page.one("#message").get_attribute("value") == "Anybody?"
    page.wait(lambda: not any("brief" in row for row in page.rows))
    page.one("#new").click()
    assert page.one("#access_code").get_attribute("value") in ("dummy", "debug")


def test_waiting_for_a_free_slot_is_shown_and_can_be_stopped(
    page: Page, kernel: str, dist: Path
) -> None:
    """Another user has the only slot: the page waits and says so until Stop."""
    options = ("--kernel_url", kernel, "--access_code", "taken", "--waiting", "0")
    with executor("debug", *options, dist=dist, until=READY):
        other_user = urlencode({"name": "taken", "history_id": 1, "user_id": 1}).encode()
        with urlopen(f"{kernel}v1.0/worker/schedule", other_user, timeout=10) as answer:
            assert answer.read() == b"READY"
        page.choose("taken")
        page.say("My turn?")
        page.wait(lambda: page.texts(".assistant .meta") == ["Waiting for a free slot…"])
        page.one("#stop").click()
        assert page.whole() == ""
    assert page.texts(".assistant .meta") == ["Stopped"]
    assert page.texts(".note") == []
    assert page.one("#message").get_attribute("value") == "My turn?"


def test_a_reader_who_scrolled_up_is_left_alone(page: Page, kernel: str) -> None:
    """The transcript follows its end only while the reader is there."""
    top = "return document.querySelector('#log').scrollTop"
    follows = (
        "const { scrollTop, scrollHeight, clientHeight } = document.querySelector('#log');"
        "return scrollTop > 100 && scrollHeight - clientHeight - scrollTop < 60"
    )
    with answering(kernel, "line\n" * 60) as one:
        begin_answer(one, "line\n" * 60)
        page.choose("fake")
        page.say("Hi")
        page.partial()
        page.wait(lambda: page.driver.execute_script(follows))
        page.driver.execute_script("document.querySelector('#log').scrollTop = 10")
        one.go_on.set()
        page.whole()
    assert page.driver.execute_script(top) == 10


def test_nothing_is_wider_than_a_telephone(page: Page) -> None:
    """At 360 pixels the page needs no sideways scrolling and the box is in view."""
    screen = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page.choose("dummy")
        height = page.one("#message").size["height"]
        page.say("x" * 2000)
        page.whole()
        assert page.one("#message").size["height"] <= height
        width = "return document.querySelector(arguments[0]).scrollWidth"
        assert page.driver.execute_script(width, "body") <= 360
        assert page.driver.execute_script(width, "#log") <= 360
        assert page.one("#message").rect["y"] < 640
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_browser_that_asks_for_traditional_chinese_gets_it(kernel: str, tmp_path: Path) -> None:
    """Language, labels and warning follow navigator.languages."""
    with chromium(tmp_path, "zh-TW,zh,en-US") as driver:
        page = Page(driver, kernel)
        assert page.one("html").get_attribute("lang") == "zh-Hant"
        assert page.one("#send").text == "送出"
        assert page.one("#message").get_attribute("aria-label") == "輸入訊息"
        assert "並非正式營運" in page.one("header").text
        assert page.driver.get_log("browser") == []
