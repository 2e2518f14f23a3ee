"""A headless Chromium with the embedded Kernel's chat page, and executors behind it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.fakes.kuwa.executor_answers import Executor, chunk
from tests.support.programs import TIMEOUT, Program, fetch

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
READY = "registered as "
LONG = "This question is long enough to be stopped while debug says it back. " * 1000  # 5 minutes
NEEDS_CHROMIUM = pytest.mark.skipif(
    not (CHROMIUM.exists() and CHROMEDRIVER.exists()),
    reason=f"needs {CHROMIUM} and {CHROMEDRIVER} (Debian: apt-get install chromium-driver)",
)


@contextlib.contextmanager
def executor(backend: str, *options: str, dist: Path, until: str) -> Iterator[re.Match[str]]:
    """Run a built file; the block starts when its log says this, and gets it."""
    command = (sys.executable, str(dist / f"kuwa-{backend}.pyz"))
    with Program(backend, *options, command=command) as program:
        yield program.wait_for(until)
        program.process.terminate()
        program.end()


@contextlib.contextmanager
def chromium(profile: Path, language: str, **preferences: Any) -> Iterator[webdriver.Chrome]:
    """Start a headless browser with nothing remembered; preferences: Chromium's own, by name."""
    options = webdriver.ChromeOptions()
    options.add_experimental_option("prefs", preferences)
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
    driver.set_script_timeout(TIMEOUT)
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """What a user sees and does on the page; the browser has no chats of other tests."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        driver.get("about:blank")
        storage = {"origin": url.rstrip("/"), "storageTypes": "indexeddb,local_storage"}
        driver.execute_cdp_cmd("Storage.clearDataForOrigin", storage)
        driver.get_log("browser")
        driver.get_log("performance")
        driver.get(url)
        self.wait(lambda: self.rows)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Return the condition's value as soon as it is true.

        An element that the page replaces between being found and being used is looked for again.
        """
        replaced = [StaleElementReferenceException]
        wait = WebDriverWait(self.driver, TIMEOUT, 0.02, ignored_exceptions=replaced)
        return wait.until(lambda _: condition())

    def click(self, css: str, by: str = By.CSS_SELECTOR) -> None:
        """Click the first element that matches, once there is one."""
        self.wait(lambda: self.driver.find_element(by, css).click() or True)  # type: ignore[func-returns-value]

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

    def whole(self) -> str:
        """Wait for the end of the answer and return it."""
        self.wait(lambda: not self.look()[0])
        return self.look()[1]

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of an async function in the page; load(name) imports a module of it."""
        start = "const [done, given] = [arguments[arguments.length - 1], [...arguments]];"
        load = "const load = name => import(`/page/${name}.js`);"
        body = f"(async () => {{ {script} }})().then(done, error => done(`${{error}}`))"
        return self.driver.execute_async_script(f"{start} {load} {body}", *arguments)

    def requests(self) -> list[dict[str, Any]]:
        """Return what the browser asked for since the page was loaded or since the last call."""
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        sent = [one["params"] for one in events if one["method"] == "Network.requestWillBeSent"]
        own = [one for one in sent if not one["documentURL"].startswith("chrome://")]
        return [one["request"] for one in own]


@contextlib.contextmanager
def answering(kernel: str, *lines: str) -> Iterator[Executor]:
    """Register an executor that gives these lines as its answer; the access code is fake."""
    with Executor() as one:
        set_answer(one, *lines)
        form = {"name": "fake", "endpoint": f"{one.url}/chat"}
        assert fetch(f"{kernel}v1.0/worker/register", form)[1] == "Success"
        try:
            yield one
        finally:
            fetch(f"{kernel}v1.0/worker/unregister", form)


def set_answer(one: Executor, *lines: str) -> None:
    """Have an executor give these lines as its next answers."""
    one.first, one.body = b"", b"".join(map(chunk, lines)) + b"0\r\n\r\n"


def begin_answer(one: Executor, text: str) -> None:
    """Have an executor send this text, and the rest of its answer once `go_on` is set."""
    one.go_on.clear()
    one.first = chunk(text)


def frame(*chunks: dict[str, Any], **more: Any) -> str:
    """Return a framed line."""
    return f"data: {json.dumps({'finish_reason': None, 'delta': chunks, **more})}\n"


def text(value: str) -> dict[str, Any]:
    """Return a text chunk."""
    return {"type": "text", "text": {"value": value, "annotations": []}}
