"""One browser and one Kernel for each module of tests of the chat page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from kuwa_min.kernel.embedded import EmbeddedKernel
from tests.fakes.kuwa.executor_answers import Executor

from .chat_page import READY, Page, answering, chromium, executor

PAGE_IS_AT = r"the chat page is at (http://\S+/)\s"


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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Return an English browser, shared by this module."""
    with chromium(tmp_path_factory.mktemp("profile"), "en-US,en") as driver:
        yield driver


@pytest.fixture
def page(browser: webdriver.Chrome, kernel: str) -> Page:
    """Return a freshly loaded page whose executor table is there."""
    return Page(browser, kernel)


@pytest.fixture(scope="module")
def small_kernel() -> Iterator[str]:
    """Return the address of an embedded Kernel in this process, from the sources."""
    with EmbeddedKernel("127.0.0.1", 0) as one:
        yield one.url


@pytest.fixture
def model(small_kernel: str) -> Iterator[Executor]:
    """Return the only executor of the small Kernel; see set_answer and begin_answer."""
    with answering(small_kernel, "Fine.") as one:
        yield one


@pytest.fixture
def chats(browser: webdriver.Chrome, small_kernel: str, model: Executor) -> Page:
    """Return a freshly loaded page of the small Kernel."""
    del model  # the page waits for it
    return Page(browser, small_kernel)
