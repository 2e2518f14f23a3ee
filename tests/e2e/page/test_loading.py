"""The chat page while a model loads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from selenium import webdriver

from tests.support.programs import Program

from .chat_page import NEEDS_CHROMIUM, Page
from .conftest import PAGE_IS_AT

pytestmark = [pytest.mark.slow, NEEDS_CHROMIUM]

SOURCE = '''
"""Loads until a file is there."""
import time
from pathlib import Path

from kuwa_min import LLMExecutor


class SlowExecutor(LLMExecutor):
    """Says what it was asked."""

    def setup(self):
        steps = self.progress("reading weights")
        steps(3, 8)
        while not Path({ready!r}).exists():
            time.sleep(0.02)

    async def llm_compute(self, history, modelfile):
        yield f"I heard: {{history[-1]['content']}}"
'''


def test_a_message_waits_for_the_model(
    browser: webdriver.Chrome, dist: Path, tmp_path: Path
) -> None:
    """The page says how far loading is, and sends the message once the executor is registered."""
    ready, source = tmp_path / "ready", tmp_path / "slow.py"
    source.write_text(SOURCE.format(ready=str(ready)), encoding="utf-8")
    command = (sys.executable, str(dist / "kuwa-debug.pyz"))
    options = (str(source), "--embedded_kernel", "127.0.0.1:0", "--access_code", "slow")
    with Program(*options, command=command) as program:
        page = Page(browser, program.wait_for(PAGE_IS_AT)[1])
        assert page.texts("#executors .state") == ["LOADING"]
        assert page.texts("#executors .queue")[0].startswith("Loading the model · 37 % · reading")
        assert "write already" in page.one("#welcome").text
        page.say("Are you there?")
        page.wait(lambda: page.texts(".message .progress"))
        assert page.texts(".message .progress")[0].startswith("Loading the model · 37 % · reading")
        assert "as soon as" in page.texts(".assistant .meta")[0]
        ready.touch()
        assert page.whole() == "I heard: Are you there?"
        assert page.texts(".progress") == []
        page.wait(lambda: page.texts("#executors .state") == ["READY"])
        assert page.driver.get_log("browser") == []


def test_a_message_that_waits_can_be_stopped(
    browser: webdriver.Chrome, dist: Path, tmp_path: Path
) -> None:
    """It is offered again."""
    source = tmp_path / "slow.py"
    source.write_text(SOURCE.format(ready=str(tmp_path / "never")), encoding="utf-8")
    command = (sys.executable, str(dist / "kuwa-debug.pyz"))
    options = (str(source), "--embedded_kernel", "127.0.0.1:0")
    with Program(*options, command=command) as program:
        page = Page(browser, program.wait_for(PAGE_IS_AT)[1])
        page.say("Later")
        page.wait(lambda: page.texts(".message .progress"))
        page.one("#stop").click()
        page.whole()
        assert page.texts(".assistant .meta") == ["Stopped"]
        assert page.one("#message").get_attribute("value") == "Later"
