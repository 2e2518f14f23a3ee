"""The embedded Kernel's chat page in a real browser, with real executor processes behind it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode
from urllib.request import urlopen

import pytest
from programs import Program
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
PAGE_IS_AT = r"the chat page is at (http://\S+/)\s"
READY = "registered as "
LONG = "This question is long enough to be stopped while debug says it back. " * 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and CHROMEDRIVER.exists()),
        reason=f"needs {CHROMIUM} and {CHROMEDRIVER} (Debian: apt-get install chromium-driver)",
    ),
]


@contextlib.contextmanager
def executor(backend: str, *options: str, dist: Path, until: str) -> Iterator[re.Match[str]]:
    """Run a built file; the block starts when its log says this, and gets it."""
    command = (sys.executable, str(dist / f"kuwa-{backend}.pyz"))
    with Program(backend, *options, command=command) as program:
        yield program.wait_for(until)
        program.process.terminate()
        program.end()


@pytest.fixture(scope="module")
def kernel(dist: Path) -> Iterator[str]:
    """Return the address of an embedded Kernel; its own process is a dummy executor."""
    options = ("--embedded_kernel", "127.0.0.1:0", "--delay", "0.003")
    with executor("dummy", *options, dist=dist, until=PAGE_IS_AT) as found:
        yield found[1]


@pytest.fixture(scope="module")
def debug(dist: Path, kernel: str) -> Iterator[str]:
    """Return the access code of an executor that says the question back."""
    with executor("debug", "--kernel_url", kernel, "--delay", "0.004", dist=dist, until=READY):
        yield "debug"


@contextlib.contextmanager
def chromium(profile: Path, language: str) -> Iterator[webdriver.Chrome]:
    """Start a headless browser with nothing remembered."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,900",
        f"--accept-lang={language}",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=str(CHROMEDRIVER))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Return an English browser, shared by this module."""
    with chromium(tmp_path_factory.mktemp("profile"), "en-US,en") as driver:
        yield driver


class Page:
    """What a person sees and does on the page."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        driver.get_log("browser")
        driver.get_log("performance")
        driver.get(url)
        self.wait(lambda: self.rows, 10)

    def wait(self, condition: Callable[[], Any], seconds: float = 30) -> Any:
        """Return the condition's value as soon as it is true."""
        return WebDriverWait(self.driver, seconds, 0.02).until(lambda _: condition())

    def one(self, css: str) -> WebElement:
        """Return the first element that matches."""
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def texts(self, css: str) -> list[str]:
        """Return the texts of all elements that match, in one look."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return list(self.driver.execute_script(script, css))

    @property
    def rows(self) -> list[str]:
        """Return the executor table, a text for each row."""
        return self.texts("#executors tbody tr")

    @property
    def answers(self) -> list[str]:
        """Return the answers, without their notes."""
        return self.texts(".assistant .text")

    @property
    def focused(self) -> str:
        """Return the id of the element that has the focus."""
        return str(self.driver.switch_to.active_element.get_attribute("id"))

    def choose(self, access_code: str) -> None:
        """Choose an access code, once it is listed."""
        self.wait(lambda: access_code in self.texts("#access_code option"))
        Select(self.one("#access_code")).select_by_visible_text(access_code)

    def write(self, message: str) -> None:
        """Put a text into the message box at once, as pasting does."""
        self.one("#message").click()
        self.driver.execute_cdp_cmd("Input.insertText", {"text": message})

    def say(self, message: str) -> None:
        """Write a message and press Send."""
        self.write(message)
        self.one("#send").click()

    def look(self) -> tuple[bool, str]:
        """Return whether the last answer is under way, and its text so far."""
        busy, text = self.driver.execute_script(
            "const last = [...document.querySelectorAll('.assistant')].at(-1);"
            "return [last.getAttribute('aria-busy'), last.querySelector('.text').textContent]"
        )
        return busy == "true", text

    def partial(self) -> str:
        """Wait for the first words of an answer that is under way."""

        def first_words() -> str:
            busy, text = self.look()
            return text if busy else ""

        return str(self.wait(first_words))

    def whole(self, seconds: float = 30) -> str:
        """Wait for the end of the answer and return it."""
        self.wait(lambda: not self.look()[0], seconds)
        return self.look()[1]

    def requests(self) -> list[dict[str, Any]]:
        """Return what the browser asked for since the page was loaded or since the last call."""
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        sent = [one for one in events if one["method"] == "Network.requestWillBeSent"]
        return [one["params"]["request"] for one in sent]


@pytest.fixture
def page(browser: webdriver.Chrome, kernel: str) -> Page:
    """Return a freshly loaded page whose executor table is there."""
    return Page(browser, kernel)


def test_the_page_loads_without_an_error_and_asks_nobody_else(page: Page) -> None:
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


def test_an_answer_is_seen_while_it_is_being_written(page: Page, debug: str) -> None:
    """First a part of the text while busy, in the end all of it."""
    question = "Say this back: 狀態 <b>not bold</b> & a < b, twice.\n" * 2
    page.choose(debug)
    page.say(question)
    part = page.partial()
    assert part != question
    assert question.startswith(part)
    assert page.whole() == question
    assert page.texts(".note") == []


def test_stop_keeps_what_was_said_and_the_next_chat_works(page: Page, debug: str) -> None:
    """A stopped answer ends soon, is marked, and leaves the executor usable."""
    page.choose(debug)
    page.say(LONG)
    page.partial()
    page.one("#stop").click()
    kept = page.whole(seconds=2)
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
    assert len(notes) == 2
    assert all(notes)
    assert not any(note in answer for note in notes)
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
    assert page.texts("#executors th") == ["Access code", "Endpoint", "State", "History", "User"]
    assert re.match(r"dummyhttp://127\.0\.0\.1:\d+/chatREADY", page.rows[0])
    assert re.match(r"debughttp://127\.0\.0\.1:\d+/chatREADY", page.rows[1])
    page.choose(debug)
    page.say(LONG)
    mine = page.wait(lambda: page.texts("#executors tr.mine td"))
    assert mine[2] == "BUSY"
    assert mine[3] in page.one("#me").text
    assert page.one("#access_code").get_attribute("value") == debug
    page.one("#stop").click()
    page.whole()
    page.wait(lambda: not page.texts("#executors tr.mine"))


def test_a_new_chat_begins_empty_even_while_an_answer_comes_in(page: Page, debug: str) -> None:
    """The old answer is stopped; the next question has no history and another id."""
    page.choose(debug)
    before = page.one("#me").text
    page.say(LONG)
    page.partial()
    page.one("#new").click()
    assert page.texts(".message") == []
    assert page.one("#me").text != before
    page.requests()
    page.say("Fresh")
    assert page.whole() == "Fresh"
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
    assert page.whole(seconds=2) != LONG
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
    """No machine: an error note, and the question is back in the box."""
    options = ("--kernel_url", kernel, "--access_code", "brief")
    with executor("debug", *options, dist=dist, until=READY):
        page.choose("brief")
    page.say("Anybody?")
    page.wait(lambda: page.texts(".note.error"))
    page.whole()
    assert "brief" in page.texts(".note.error")[0]
    assert page.one("#message").get_attribute("value") == "Anybody?"


def test_waiting_for_a_free_slot_is_shown_and_can_be_stopped(
    page: Page, kernel: str, dist: Path
) -> None:
    """Somebody else has the only slot: the page waits and says so until Stop."""
    options = ("--kernel_url", kernel, "--access_code", "taken")
    with executor("debug", *options, dist=dist, until=READY):
        somebody = urlencode({"name": "taken", "history_id": 1, "user_id": 1}).encode()
        with urlopen(f"{kernel}v1.0/worker/schedule", somebody, timeout=10) as answer:
            assert answer.read() == b"READY"
        page.choose("taken")
        page.say("My turn?")
        page.wait(lambda: page.texts(".assistant .meta") == ["Waiting for a free slot…"])
        page.one("#stop").click()
        assert page.whole(seconds=1) == ""
    assert page.texts(".assistant .meta") == ["Stopped"]
    assert page.texts(".note") == []
    assert page.one("#message").get_attribute("value") == "My turn?"


def test_a_reader_who_scrolled_up_is_left_alone(page: Page, debug: str) -> None:
    """The transcript follows its end only while the reader is there."""
    top = "return document.querySelector('#log').scrollTop"
    bottom = "const l = document.querySelector('#log'); return l.scrollHeight - l.clientHeight"
    page.choose(debug)
    page.say("line\n" * 60)
    page.wait(lambda: page.driver.execute_script(top) > 100)
    page.partial()
    assert page.driver.execute_script(bottom) - page.driver.execute_script(top) < 60
    page.driver.execute_script("document.querySelector('#log').scrollTop = 10")
    page.whole()
    assert page.driver.execute_script(top) == 10


def test_nothing_is_wider_than_a_telephone(page: Page) -> None:
    """At 360 pixels the page needs no sideways scrolling and the box is in view."""
    screen = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page.choose("dummy")
        page.say("x" * 200)
        page.whole()
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
