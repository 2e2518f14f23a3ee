"""The functions of `kuwa.executor` that files written for Kuwa call, as Kuwa's own behave."""

from __future__ import annotations

import argparse
import base64
import io
import ipaddress
import json
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Optional, Union  # noqa: UP035 - as Kuwa's users write them

import pytest

from kuwa_min.drop_in.kuwa.executor import _fetch, llm_executor, multi_modality
from kuwa_min.drop_in.kuwa.executor.base_executor import (
    AdvancedJSONEncoder,
    BaseExecutor,
    find_free_port,
)
from kuwa_min.drop_in.kuwa.executor.cache import lru_cache_with_ttl
from kuwa_min.drop_in.kuwa.executor.message import TextChunk
from kuwa_min.drop_in.kuwa.executor.util import DescriptionParser, expose_function_parameter
from kuwa_min.executor import LLMExecutor


def user(text: str) -> dict[str, Any]:
    """Return a message of the user."""
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, Any]:
    """Return a message of the assistant."""
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "s"}


# -- histories


@pytest.mark.parametrize(
    ("history", "rectified"),
    [
        ([], []),
        ([user("a")], [user("a")]),
        ([user("a"), bot("b")], [user("a"), bot("b")]),
        ([bot("b"), user("a")], [user(""), bot("b"), user("a")]),
        ([SYSTEM, bot("b")], [SYSTEM, user(""), bot("b")]),
        ([SYSTEM, user("a"), bot("b")], [SYSTEM, user("a"), bot("b")]),
        ([SYSTEM], [SYSTEM]),
    ],
)
def test_the_user_speaks_first(history: list[Any], rectified: list[Any]) -> None:
    """An empty message is put before the assistant's; the argument is not changed."""
    before = json.dumps(history)
    assert llm_executor.rectify_chat_history(history) == rectified
    assert json.dumps(history) == before


KINDS = {
    "http://x/cat.png": "image/png",
    "https://x/talk.mp3": "audio/mpeg",
    "HTTP://x/CAT.PNG": "image/png",
}


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer HEAD requests by a table; other URLs fail."""
    monkeypatch.setattr(llm_executor, "get_mime_type", KINDS.get)


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize(
    ("text", "left", "urls"),
    [
        ("no address", "no address", []),
        ("http://x/cat.png\nWhat is it?", "\nWhat is it?", ["http://x/cat.png"]),
        ("see http://x/cat.png here", "see  here", ["http://x/cat.png"]),
        ("see http://x/cat.png.", "see http://x/cat.png.", []),
        ("https://x/talk.mp3 http://x/cat.png", "https://x/talk.mp3 ", ["http://x/cat.png"]),
        ("http://x/cat.png http://x/cat.png", " ", ["http://x/cat.png"] * 2),
        ("HTTP://x/CAT.PNG!? http://no/where", "HTTP://x/CAT.PNG!? http://no/where", []),
        ("HTTP://x/CAT.PNG", "", ["HTTP://x/CAT.PNG"]),
    ],
)
def test_urls_of_the_wanted_types_become_attachments(text: str, left: str, urls: list[str]) -> None:
    """They are taken out of the text; others stay."""
    history = [user(text), bot("http://x/cat.png")]
    found = llm_executor.extract_user_attachment(history, ["image/*"])
    attachments = [{"url": url, "mime_type": "image/png"} for url in urls]
    assert found == [{**user(left), "attachments": attachments}, bot("http://x/cat.png")]
    assert history == [user(text), bot("http://x/cat.png")], "the argument is not changed"


@pytest.mark.usefixtures("kinds")
def test_without_patterns_nothing_is_an_attachment() -> None:
    """As in Kuwa's own default."""
    found = llm_executor.extract_user_attachment([user("http://x/cat.png")])
    assert found == [{**user("http://x/cat.png"), "attachments": []}]


# -- requests


class Site(BaseHTTPRequestHandler):
    """Serve an image, a text, redirects to a file and to the image."""

    def do_HEAD(self) -> None:
        """Answer without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer by path."""
        target = {"/file": "file:///etc/passwd", "/moved": "/cat.png"}.get(self.path)
        kind = {"/cat.png": "Image/PNG; charset=x", "/text": "text/plain"}.get(self.path)
        self.send_response(302 if target else 200 if kind else 404)
        if target:
            self.send_header("Location", target)
        if kind:
            self.send_header("Content-Type", kind)
        body = PICTURE if kind else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)


@pytest.fixture
def site() -> Iterator[str]:
    """Serve the site on loopback; return its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_type_of_a_url_is_requested_once(site: str) -> None:
    """Redirects are followed; a failure has no type; the result is cached."""
    assert llm_executor.get_mime_type(f"{site}/cat.png") == "image/png"
    assert llm_executor.get_mime_type(f"{site}/moved") == "image/png"
    for path in ("missing", "file"):
        assert llm_executor.get_mime_type(f"{site}/{path}") is None
    assert llm_executor.get_mime_type("file:///etc/passwd") is None
    assert llm_executor.get_mime_type("http://") is None


def test_what_is_fetched_is_of_an_accepted_type_and_bounded(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect to a local file is an error."""
    assert _fetch.get(f"{site}/moved", {"image/png"}) == PICTURE
    with pytest.raises(ValueError, match="Unsupported mime type text/plain"):
        _fetch.get(f"{site}/text", {"image/png"})
    with pytest.raises(OSError, match="302"):
        _fetch.get(f"{site}/file", {"image/png"})
    monkeypatch.setattr(_fetch, "MAX_BODY", 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        _fetch.get(f"{site}/cat.png", {"image/png"})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_metadata_service_of_a_cloud_is_asked(
    site: str, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Whatever name leads there: where the connection ends counts."""
    monkeypatch.setattr(_fetch, "METADATA", (ipaddress.ip_network("127.0.0.0/8"),))
    with pytest.raises(OSError, match="metadata service of a cloud is not asked"):
        _fetch.get(f"{site.replace('127.0.0.1', host)}/cat.png", {"image/png"})


def test_the_proxies_are_those_of_the_whole_program(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None for this machine, and none that no_proxy excludes, ranges of addresses included."""
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "192.0.2.0/24")
    assert _fetch.get(f"{site}/cat.png", {"image/png"}) == PICTURE
    handler, request = _fetch._ProxyHandler(), urllib.request.Request
    for host, by_proxy in (("192.0.2.1", False), ("192.0.3.1", True)):
        asked = request(f"http://{host}/")
        handler.proxy_open(asked, "http://127.0.0.1:9", "http")
        assert (asked.host == "127.0.0.1:9") is by_proxy


def test_an_image_becomes_a_data_url(site: str) -> None:
    """In another format, with or without its prefix; None becomes None."""
    image = pytest.importorskip("PIL.Image")
    assert {"image/png", "image/jpeg", "image/gif"} <= multi_modality.get_supported_image_mime()
    url = multi_modality.fetch_image_as_data_url(f"{site}/cat.png")
    assert url is not None
    head, _, text = url.partition(",")
    assert head == "data:image/png;base64"
    found = image.open(io.BytesIO(base64.b64decode(text)))
    assert (found.size, found.mode) == ((1, 1), "RGBA")
    assert multi_modality.image_to_data_url(found, add_prefix=False) == text
    assert multi_modality.image_to_data_url(None) is None
    assert multi_modality.fetch_image("") is None
    assert multi_modality.fetch_image_as_data_url(None) is None
    with pytest.raises(ValueError, match="Unsupported mime type"):
        multi_modality.fetch_image(f"{site}/text")


def test_without_pillow_no_image_is_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Chats without images work; the log says once what is missing."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    function = multi_modality.get_supported_image_mime
    function.cache_clear()
    assert function() == function() == set()
    function.cache_clear()
    assert caplog.text.count("lacks the Pillow library") == 1


@pytest.mark.parametrize(
    ("extension", "kind"),
    [("png", "image/png"), (".jpg", "image/jpeg"), ("mp3", "audio/mpeg"), ("nothing", None)],
)
def test_an_extension_has_a_type(extension: str, kind: str | None) -> None:
    """With or without its dot."""
    assert multi_modality.ext2mime(extension) == kind


# -- small ones


def test_a_cache_forgets_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within it, the function is called once for the same arguments."""
    now, calls = [1000.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    @lru_cache_with_ttl(max_age_sec=10)
    def double(number: int, *, times: int = 2) -> int:
        """Multiply."""
        calls.append(number)
        return number * times

    assert (double.__name__, double.__doc__) == ("double", "Multiply.")
    assert [double(1), double(1), double(2), double(1, times=3)] == [2, 2, 4, 3]
    assert calls == [1, 2, 1]
    now[0] += 10
    assert double(1) == 2
    assert calls == [1, 2, 1, 1]


def test_a_subclass_of_the_base_executor_is_an_executor() -> None:
    """One class is both."""
    assert BaseExecutor is LLMExecutor


def test_chunks_and_sets_are_json() -> None:
    """Other objects are refused as ever."""
    text = json.dumps([TextChunk("hi"), {1}], cls=AdvancedJSONEncoder)
    assert json.loads(text) == [{"type": "text", "text": {"value": "hi", "annotations": []}}, [1]]
    with pytest.raises(TypeError):
        json.dumps(object(), cls=AdvancedJSONEncoder)


def test_a_free_port_can_be_bound() -> None:
    """It was free a moment ago."""
    with socket.create_server(("127.0.0.1", find_free_port())):
        pass


# -- expose_function_parameter


def many(
    count: int,
    rate: float = 0.5,
    *,
    optional: Optional[int] = None,  # noqa: UP045
    either: float | None = 1.5,
    union: Union[str, float] = 2.5,  # noqa: UP007
    name: str = "x",
    flag: bool = True,
    numbers: list[int] = [],  # noqa: B006
    weights: Dict[str, float] = {},  # noqa: B006, UP006
    bias: Optional[List[int]] = None,  # noqa: UP006, UP045
    function: Optional[Callable[[int], float]] = None,  # noqa: UP045
    bare=3,
) -> int:
    """Have parameters of every kind."""
    return count


def test_numbers_are_exposed_and_nothing_else() -> None:
    """Optional ones and unions with a number count; containers of numbers do not."""
    assert expose_function_parameter(many) == {
        "count": None,
        "rate": 0.5,
        "optional": None,
        "either": 1.5,
        "union": 2.5,
    }


def test_exposed_parameters_are_options_of_their_type() -> None:
    """A whole number stays one; what has no description shows a dash."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    expose_function_parameter(many, parser=parser)
    args = parser.parse_args(["--count", "3", "--either", "2"])
    assert vars(args) == {"count": 3, "rate": 0.5, "optional": None, "either": 2.0, "union": 2.5}
    assert (type(args.count), type(args.either)) == (int, float)
    assert "--rate RATE - (default: 0.5)" in " ".join(parser.format_help().split())
    with pytest.raises(SystemExit):
        parser.parse_args(["--count", "3.5"])


def test_given_defaults_win_and_stay_as_they_are() -> None:
    """Defaults of parameters that the function lacks are kept; the argument is not changed."""
    defaults = {"rate": 0.1, "further": 7}
    found = expose_function_parameter(many, defaults=defaults)
    assert (found["rate"], found["further"]) == (0.1, 7)
    assert defaults == {"rate": 0.1, "further": 7}


def test_other_types_can_be_accepted() -> None:
    """The tuple says which."""
    assert expose_function_parameter(many, accepted_types=(str,)) == {
        "union": 2.5,
        "name": "x",
    }


def test_a_description_parser_that_finds_nothing_leaves_a_dash() -> None:
    """None means that there is no description."""
    parser = argparse.ArgumentParser()
    expose_function_parameter(many, parser=parser, desc_parser=lambda doc, name: None)
    assert "--count COUNT -" in " ".join(parser.format_help().split())


def test_a_description_parser_must_say_how() -> None:
    """The base class names the class that forgot it."""

    class Forgetful(DescriptionParser):
        """A user's first attempt."""

    with pytest.raises(NotImplementedError, match="Forgetful lacks __call__"):
        Forgetful()("doc", "name")
