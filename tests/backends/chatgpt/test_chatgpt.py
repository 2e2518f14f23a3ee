"""The chatgpt backend through the real SDK, against services with one odd behaviour each.

Covers client, options and transport; of _cloud executor, request and
api_key, with the tests of geminipro.
"""

from __future__ import annotations

import base64
import inspect
import io
import json
import logging
import re
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from backends._cloud import errors
from backends.chatgpt import OPTIONS, ChatgptExecutor
from backends.chatgpt.context_window import from_model_name
from kuwa_min.chat import catalog
from kuwa_min.chat.prompt import without_our_sentences
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options.constraint import JSON_SCHEMA
from kuwa_min.options.thinking import THINKING, THINKING_TOKENS
from kuwa_min.process.deadline import Response
from tests.backends._media.test_images import data_url, png
from tests.fakes.openai import breaks_off as openai_breaks_off
from tests.fakes.openai import counts_tokens as openai_counts_tokens
from tests.fakes.openai import is_silent as openai_is_silent
from tests.fakes.openai import refuses as openai_refuses
from tests.fakes.openai import talks_garbage as openai_talks_garbage
from tests.fakes.openai.server import Handler, openai_server
from tests.support.certificates import make_certificate
from tests.support.cloud_chats import ask, pieces, start
from tests.support.saved_as import SAVED_AS
from tests.support.upload_site import Site

from .asking import Serve, connect, fine

pytest.importorskip("openai", reason="the chatgpt backend needs openai")

from backends._cloud.sentences import (
    BROKEN_OFF,
    CUT_BY_LENGTH,
    CUT_BY_RULES,
    ENDED_ODDLY,
    LAST_FILE_ONLY,
    WANTS_A_TOOL,
)
from backends._http.transport_errors import ConnectionFailed
from backends._media.sentences import LINK_NO_FILE
from backends.chatgpt.client import Client
from backends.chatgpt.transport import Transport, httpx
from kuwa_min.chat.sentence import render

KEY = "sk-operator-0123456789"
USERS_KEY = "sk-user-9876543210"

pytestmark = pytest.mark.usefixtures("surroundings")


# -- an answer


def test_an_answer_comes_as_text(serve: Serve) -> None:
    """Through the SDK; what was asked is what was said."""
    service = serve(fine)
    executor = connect(service, "--system_prompt", "Be kind.", "--model", "m", "--seed", 7)
    assert ask(executor, "1", "2", "3", before_prompt="<", llm_top_p="0.5") == "Hello, 世界!"
    (asked,) = service.chats
    assert asked.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "1"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "<3"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "seed": 7,
        "top_p": 0.5,
    }


def test_options_count_without_our_prefix(serve: Serve) -> None:
    """As Ollama's Modelfiles have them; what is no option is not sent."""
    service = serve(fine)
    ask(connect(service), "hi", parameter="temperature 0.3", kuwaparam="num_ctx 5")
    (asked,) = service.chats
    assert asked.body["temperature"] == 0.3
    assert "num_ctx" not in asked.body


def test_a_bot_chooses_its_model(serve: Serve) -> None:
    """As llm_model, even one whose name is a number; a name of two lines is none."""
    service = serve(fine)
    executor = connect(service)
    ask(executor, "hi", llm_model="other")
    ask(executor, "hi", llm_model="4")
    assert [one.body["model"] for one in service.chats] == ["other", "4"]
    assert ask(executor, "hi", llm_model='"a\nb"') == "[The option llm_model must be a name.]"


def test_no_system_prompt_goes_to_a_service_that_must_have_none(serve: Serve) -> None:
    """With --no_system_prompt."""
    service = serve(fine)
    ask(connect(service, "--no_system_prompt"), "hi", system="Be kind.")
    assert service.chats[0].said == ["hi"]


def test_connections_are_used_again(serve: Serve) -> None:
    """Chats one after the other need one connection."""
    ports = set()

    def talk(one: Handler) -> None:
        ports.add(one.client_address[1])
        fine(one)

    executor = connect(serve(talk))
    assert {ask(executor, str(n)) for n in range(5)} == {"Hello, 世界!"}
    assert len(ports) <= 2, "one for the list of models, one for chats, or the same for both"


def test_many_chats_at_once_get_their_own_answers(serve: Serve) -> None:
    """One client serves them all."""

    def echo(one: Handler) -> None:
        one.tell(*(f"{one.asked.said[-1]} {number};" for number in range(50)))

    executor = connect(serve(echo))
    names = [f"user {number}" for number in range(32)]
    with ThreadPoolExecutor(len(names)) as threads:
        answers = list(threads.map(lambda name: ask(executor, name), names))
    for name, answer in zip(names, answers, strict=True):
        assert answer == "".join(f"{name} {number};" for number in range(50))


def test_a_kept_connection_may_be_closed(serve: Serve) -> None:
    """By the service, between two chats: the next one is asked on a new connection."""
    executor = connect(serve(openai_breaks_off.once_answered))
    assert [ask(executor, "a"), ask(executor, "b")] == ["one", "one"]


def test_a_service_need_not_close_after_its_last_word(serve: Serve) -> None:
    """[DONE] is the end."""
    assert ask(connect(serve(openai_is_silent.after_the_last_word)), "hi") == "all"


def test_a_service_that_does_not_stream_is_read_all_the_same(serve: Serve) -> None:
    """Its answer is one JSON object."""
    whole = {"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}
    assert ask(connect(serve(lambda talk: talk.answer(whole))), "hi") == "whole"


def test_tokens_are_counted(serve: Serve) -> None:
    """As the service says in an object without choices."""

    def talk(one: Handler) -> None:
        one.begin()
        one.say("one", finish="stop")
        one.event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3}})
        one.end()

    executor = connect(serve(talk))
    counted = []
    executor._LLMExecutor__status.on_tokens = lambda *tokens: counted.append(tokens)
    assert ask(executor, "hi") == "one"
    assert counted == [(11, 3, 0)]


# -- side notes


@pytest.mark.parametrize(
    ("finish", "note"),
    [
        ("length", CUT_BY_LENGTH),
        ("content_filter", CUT_BY_RULES),
        ("tool_calls", WANTS_A_TOOL),
        ("lunch", ENDED_ODDLY.format("lunch")),
    ],
)
def test_the_user_is_told_why_an_answer_ends(serve: Serve, finish: str, note: str) -> None:
    """Beside the answer, in the user's language; the model never reads it."""
    executor = connect(serve(lambda talk: talk.tell("text", finish=finish)))
    answer = ask(executor, "hi")
    assert answer == "text" + SIDE_NOTE.format(note)
    assert without_our_sentences([{"role": "assistant", "content": answer}])[0]["content"] == "text"
    chinese = ask(executor, "hi", form={"lang": "zh-TW,en;q=0.5"})
    assert chinese == "text" + SIDE_NOTE.format(note).render("zh")
    assert chinese != answer


@pytest.mark.parametrize(
    "talk", [openai_breaks_off.in_the_middle, openai_breaks_off.without_a_reason]
)
def test_the_user_is_told_of_an_answer_that_breaks_off(
    serve: Serve, talk: Callable[[Handler], None]
) -> None:
    """It may be incomplete; it is not asked again."""
    service = serve(talk)
    assert ask(connect(service), "hi") == "half of " + SIDE_NOTE.format(BROKEN_OFF)
    assert len(service.chats) == 1


def test_reasoning_is_shown_if_the_operator_wants_it(serve: Serve) -> None:
    """As side notes, one a paragraph; without --show_reasoning it is left out."""

    def talk(one: Handler) -> None:
        one.begin()
        one.say("", "", reasoning_content="Let me")
        one.say("", reasoning=" see.\n\nYes<<<WARNING>>>")
        one.say("42", finish="stop")
        one.end()

    shown = ask(connect(serve(talk), "--show_reasoning"), "hi")
    assert shown == SIDE_NOTE.format("Let meLet me see.") + SIDE_NOTE.format("Yes") + "42"
    assert ask(connect(serve(talk)), "hi") == "42"


# -- keys


@pytest.mark.parametrize(
    ("options", "form", "sent"),
    [
        (["--send_openai_token", "--api_key", KEY], {}, KEY),
        (["--send_openai_token", "--api_key", KEY], {"openai_token": USERS_KEY}, USERS_KEY),
        (["--send_openai_token"], {"openai_token": f" {USERS_KEY}\n"}, USERS_KEY),
        (
            ["--send_openai_token", "--api_key", KEY, "--no_override_api_key"],
            {"openai_token": USERS_KEY},
            KEY,
        ),
        (["--api_key", KEY], {"openai_token": USERS_KEY}, KEY),
        ([], {"openai_token": USERS_KEY}, ""),
        ([], {"third_party_token": USERS_KEY}, ""),
        (["--use_third_party_api_key"], {"third_party_token": USERS_KEY}, USERS_KEY),
        (["--use_third_party_api_key", "--api_key", KEY], {"openai_token": USERS_KEY}, KEY),
    ],
)
def test_whose_key_is_sent(
    serve: Serve, options: list[str], form: dict[str, str], sent: str
) -> None:
    """A user's OpenAI token goes to no other service unless the operator asked for it."""
    service = serve(fine)
    ask(connect(service, *options), "hi", form=form)
    assert [one.key for one in service.chats] == [sent]
    assert USERS_KEY not in str([one.fields for one in service.asked]) or sent == USERS_KEY


def test_the_operators_account_is_not_named_with_anothers_key(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenAI would refuse the key."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    service = serve(fine)
    executor = connect(service, "--api_key", KEY, "--send_openai_token")
    ask(executor, "hi")
    ask(executor, "hi", form={"openai_token": USERS_KEY})
    named = [one.fields.get("openai-organization") for one in service.chats]
    assert named == ["org-1", None]


def test_openai_itself_takes_the_users_token() -> None:
    """And wants a key; no request is sent here."""
    executor = start(ChatgptExecutor)
    assert ask(executor, "hi") == catalog.NO_OPENAI_KEY
    assert "請先" in ask(executor, "hi", form={"lang": "zh-TW"})
    assert ask(executor, "hi", form={"openai_token": "no key"}) == catalog.BAD_OPENAI_KEY
    third_party = start(ChatgptExecutor, "--use_third_party_api_key")
    assert ask(third_party, "hi", form={"openai_token": USERS_KEY}) == catalog.NO_THIRD_PARTY_KEY


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://notopenai.com/v1", False),
    ],
)
def test_which_services_are_openais(monkeypatch: pytest.MonkeyPatch, url: str, taken: bool) -> None:
    """By the name in the URL, and only where it is encrypted."""
    monkeypatch.setattr(Client, "list_models", lambda *_: [])
    executor = start(ChatgptExecutor, "--base_url", url)
    assert executor._is_openai is taken


@pytest.mark.parametrize("path", ["/chat/completions", "/chat/completions/", "/"])
def test_the_url_of_chats_is_taken_for_the_base_url(serve: Serve, path: str) -> None:
    """Services name either in their documents."""
    service = serve(fine)
    executor = start(ChatgptExecutor, "--base_url", service.url + path)
    assert ask(executor, "hi") == "Hello, 世界!"
    assert service.chats[-1].path == urlsplit(service.url).path + "/chat/completions"


def test_a_key_may_come_from_the_environment_or_a_file(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the list of processes does not show it."""
    file = tmp_path / "key"
    service = serve(fine)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(connect(service), "hi")
    for saved in SAVED_AS.values():
        file.write_bytes(saved(f"{USERS_KEY}\n"))
        ask(connect(service, "--api_key_file", file), "hi")
    monkeypatch.setenv("OPENAI_API_KEY", f"\ufeff{KEY}\r")  # of a file, by $(cat FILE)
    ask(connect(service), "hi")
    assert [one.key for one in service.chats] == [KEY, *[USERS_KEY] * len(SAVED_AS), KEY]


def test_a_file_without_a_key_ends_the_start(tmp_path: Path) -> None:
    """In one line that names it."""
    with pytest.raises(UsageError, match=r"--api_key_file .*gone cannot be read"):
        start(ChatgptExecutor, "--api_key_file", tmp_path / "gone")
    two = tmp_path / "two"
    two.write_text("one two")
    with pytest.raises(UsageError, match=r"holds no key") as refused:
        start(ChatgptExecutor, "--api_key_file", two)
    assert "one two" not in str(refused.value)
    two.write_bytes("金鑰\n".encode("cp950"))
    with pytest.raises(UsageError, match=r"--api_key_file .*two is not UTF-8 text: line 1 seems"):
        start(ChatgptExecutor, "--api_key_file", two)


def test_no_key_is_seen_anywhere(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Even if the service quotes it, and the chat; its owner stands in the log."""
    caplog.set_level(logging.DEBUG)
    executor = connect(serve(openai_refuses.echoing_the_key), "--send_openai_token")
    form = {"openai_token": USERS_KEY}
    answer = ask(executor, "my secret wish", form=form)
    assert answer == catalog.BAD_OPENAI_KEY
    assert USERS_KEY not in caplog.text
    assert "secret wish" not in caplog.text
    assert "the service answers 401 (invalid_api_key), to the key of the person" in caplog.text
    assert "***" in errors.redact(f"Bearer {USERS_KEY}")


# -- refusals: each a sentence that says what to do

MISSING = {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}
CASES = [
    (401, {"error": {"message": "no"}}, catalog.BAD_OPENAI_KEY),
    (403, {"error": {"message": "no"}}, catalog.FORBIDDEN.format("gpt-4o")),
    (403, {"error": {"code": "unsupported_country_region_territory"}}, catalog.NOT_OFFERED),
    (404, MISSING, catalog.NO_MODEL.format("gpt-4o")),
    (404, {"detail": "Not Found"}, catalog.GARBLED),
    (402, {"error": {"message": "pay"}}, catalog.QUOTA),
    (429, {"error": {"message": "no", "code": "insufficient_quota"}}, catalog.QUOTA),
    (400, {"error": {"message": "no", "code": "content_filter"}}, catalog.NOT_ALLOWED),
    (
        400,
        {"error": {"message": "Invalid value", "param": "temperature"}},
        catalog.NOT_AN_OPTION.format("temperature"),
    ),
    (400, {"error": {"message": "?"}}, catalog.SERVICE_REFUSED.format(400)),
    (418, b"<html>teapot</html>", catalog.SERVICE_REFUSED.format(418)),
]


@pytest.mark.parametrize(("status", "body", "sentence"), CASES)
def test_an_error_response_is_a_sentence(
    serve: Serve, status: int, body: Any, sentence: str
) -> None:
    """One line, in the user's language; the request is not retried."""
    service = serve(openai_refuses.always(status, body))
    executor = connect(service)
    assert ask(executor, "hi") == sentence
    assert len(service.chats) == 1
    chinese = ask(executor, "hi", form={"lang": "zh-TW"})
    assert chinese == render(sentence, "zh")
    assert "\n" not in chinese
    assert without_our_sentences([{"role": "assistant", "content": chinese}]) == []


@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
def test_a_transient_error_is_retried(serve: Serve, status: int) -> None:
    """Before the first word, with growing pauses."""
    service = serve(openai_refuses.at_first(2, status))
    assert ask(connect(service), "hi") == "at last"
    assert len(service.chats) == 3


def test_a_service_that_stays_busy_is_given_up(serve: Serve) -> None:
    """After four attempts; at once if it asks for a longer wait than a user would bear."""
    busy = serve(openai_refuses.always(429, {"error": {"message": "slow down"}}))
    assert ask(connect(busy), "hi") == catalog.BUSY
    assert len(busy.chats) == errors.MAX_ATTEMPTS
    patient = serve(openai_refuses.always(429, {}, Retry_After="3600"))
    assert ask(connect(patient), "hi") == catalog.BUSY
    assert len(patient.chats) == 1


def test_a_service_says_how_long_to_wait(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is obeyed."""
    executor = connect(serve(openai_refuses.at_first(1, 429, Retry_After="7")))
    waited: list[float] = []
    monkeypatch.setattr(executor, "pause", lambda seconds: waited.append(seconds) or _nothing())
    assert ask(executor, "hi") == "at last"
    assert waited == [7]


async def _nothing() -> None:
    """Be awaited."""


def test_an_error_in_the_middle_ends_the_answer(serve: Serve) -> None:
    """With a sentence on a line of its own; the answer is not asked again."""
    service = serve(openai_refuses.midway({"message": "CUDA error", "code": 500}))
    answer = ask(connect(service), "hi")
    assert answer == "so far \n" + catalog.SERVICE_FAILED.format(500)
    assert len(service.chats) == 1


def test_an_event_may_be_named_an_error(serve: Serve) -> None:
    """Whatever its data are."""

    def talk(one: Handler) -> None:
        one.begin()
        one.say("so far")
        one.raw(b'event: error\ndata: {"message": "no"}\n\n')
        one.end()

    assert ask(connect(serve(talk)), "hi") == "so far\n" + catalog.SERVICE_FAILED.format(500)


def test_reasoning_is_shown_even_if_the_service_leaves(serve: Serve) -> None:
    """What was held back for the end of its paragraph."""

    def talk(one: Handler) -> None:
        one.begin()
        one.say("", reasoning="Well\n\nmaybe")
        one.break_off()

    shown = "".join(map(SIDE_NOTE.format, ("Well", "maybe", BROKEN_OFF)))
    assert ask(connect(serve(talk), "--show_reasoning"), "hi") == shown


def test_a_service_that_leaves_before_its_first_word_is_asked_again(serve: Serve) -> None:
    """No text was shown yet."""
    assert ask(connect(serve(openai_breaks_off.once_before_the_first_word)), "hi") == "here I am"
    gone = serve(openai_breaks_off.always_before_the_head)
    assert ask(connect(gone), "hi") == catalog.UNREACHABLE
    assert len(gone.chats) == errors.MAX_ATTEMPTS + 1, "the kept connection counts as closed before"


@pytest.mark.parametrize(
    "talk",
    [
        openai_talks_garbage.bytes_for_http,
        openai_talks_garbage.page,
        openai_talks_garbage.compressed,
        openai_talks_garbage.events_of(b"data: {not json}\n\n"),
        openai_talks_garbage.events_of(b"data: [1]\n\n"),
        openai_talks_garbage.events_of(b"data: " + b"[" * 100_000 + b"\n\n"),
        openai_talks_garbage.events_of(b"data: " + b"[" * 100_000),
        openai_talks_garbage.events_of(b'[{"a":' * 100_000),
        openai_talks_garbage.events_of(b'data: {"hello": 1}\n\n'),
        openai_talks_garbage.events_of(b"\xff\xfe\x00" * 100),
        openai_talks_garbage.events_of(b"data: \xff\xfe\n\n"),
    ],
)
def test_a_malformed_response_is_a_sentence(serve: Serve, talk: Callable[[Handler], None]) -> None:
    """Whatever it is; the log names the kind, not the words."""
    assert ask(connect(serve(talk)), "hi") == catalog.GARBLED


def test_a_malformed_event_in_the_middle_ends_the_answer(serve: Serve) -> None:
    """The text before it stays."""

    def talk(one: Handler) -> None:
        one.begin()
        one.say("so far")
        one.raw(b"data: {oops\n\n")
        one.end()

    assert ask(connect(serve(talk)), "hi") == "so far\n" + catalog.GARBLED


def test_an_empty_answer_is_a_sentence(serve: Serve) -> None:
    """The web front end would show an error for nothing."""
    assert ask(connect(serve(lambda talk: talk.tell(""))), "hi") == catalog.NO_ANSWER
    empty = serve(openai_talks_garbage.events_of(b": nothing\n\n"))
    assert ask(connect(empty), "hi") == catalog.NO_ANSWER


def test_a_silent_service_is_given_up_in_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After --timeout seconds without a byte, before the first word and after it."""
    early = connect(serve(openai_is_silent.before_the_head), "--timeout", 0.2)
    assert ask(early, "hi") == catalog.TOO_SLOW
    limits, lift = list[float](), Response.lift_deadline

    def lift_to_little(response: Response, seconds: float) -> None:
        limits.append(seconds)
        lift(response, min(seconds, 0.2))  # the first word came with the head

    def talk(one: Handler) -> None:
        one.wfile, out = io.BytesIO(), one.wfile
        one.begin()
        one.say("one")
        out.write(one.wfile.getvalue())
        one.wait_until_gone()

    monkeypatch.setattr(Response, "lift_deadline", lift_to_little)
    assert ask(connect(serve(talk)), "hi", llm_timeout="61") == "one\n" + catalog.TOO_SLOW
    assert limits[0] == 61


def test_a_service_that_is_not_there_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The start does not fail; a chat says so; later both work."""
    with openai_server(fine) as service:
        pass
    caplog.set_level(logging.INFO)
    executor = connect(service)
    assert caplog.text.count("does not list its models yet") == 1
    assert ask(executor, "hi") == catalog.UNREACHABLE
    assert "ConnectionRefusedError" in caplog.text
    assert caplog.text.count("does not list its models yet") == 1


def test_a_self_signed_certificate_is_refused(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a sentence; the log says how to trust it, and then it is trusted."""
    certificate, key = make_certificate(tmp_path, "one.test")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    service = serve(fine, tls=tls)
    assert ask(connect(service), "hi") == catalog.NOT_TRUSTED
    assert "SSL_CERT_FILE" in caplog.text
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ask(connect(service), "hi") == "Hello, 世界!"
    plain = service.url.replace("https", "http")
    assert ask(start(ChatgptExecutor, "--base_url", plain), "hi") in (
        catalog.UNREACHABLE,
        catalog.GARBLED,
    )


# -- a service that is elsewhere


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_makes_a_get_of_a_chat_is_named(
    serve: Serve, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With the --base_url to give instead; neither the chat nor the key goes there."""
    other = serve(fine)
    target = f"{other.url}/chat/completions?session=secret"
    service = serve(openai_refuses.redirecting(status, target))
    assert ask(connect(service, "--api_key", KEY), "hi") == catalog.GARBLED
    assert f"say --base_url {other.url}: {service.url} redirects ({status})" in caplog.text
    assert "secret" not in caplog.text
    assert (len(service.chats), other.asked) == (1, [])


def test_a_redirect_to_a_login_is_named(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """There is no --base_url to give."""
    service = serve(openai_refuses.redirecting(302, "/login?next=/v1"))
    assert ask(connect(service), "hi") == catalog.GARBLED
    assert "is --base_url right, or is this a login?" in caplog.text
    assert "/login, where a chat would arrive as GET" in caplog.text


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_on_the_same_host_is_followed(
    serve: Serve, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With chat and key, and named once."""
    service = serve(openai_refuses.moved(status, "/v2/chat/completions"))
    executor = connect(service, "--api_key", KEY)
    assert {ask(executor, "hi") for _ in "12"} == {"fine"}
    assert [one.key for one in service.chats] == [KEY] * 4
    assert caplog.text.count("say --base_url http") == 1


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_to_another_host_gets_neither_chat_nor_key(
    serve: Serve, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Another port is another service; the log has the --base_url to give."""
    other = serve(fine)
    service = serve(
        openai_refuses.redirecting(status, f"{other.url}/chat/completions?token=secret")
    )
    assert ask(connect(service, "--api_key", KEY), "hi") == catalog.GARBLED
    assert (len(service.chats), other.asked) == (1, [])
    place = f"{service.url} redirects ({status}) to {other.url}/chat/completions"
    assert f"say --base_url {other.url}: {place}, where no chat or key is sent" in caplog.text
    assert "secret" not in caplog.text


def test_no_request_leaves_the_services_origin(serve: Serve) -> None:
    """However the library that follows redirects reads a Location."""
    service, other = serve(fine), serve(fine)
    transport = Transport(service.url, lambda *_: None)
    with pytest.raises(ConnectionFailed, match="an odd redirect to another host"):
        transport.handle_request(httpx.Request("POST", f"{other.url}/chat/completions"))
    assert other.asked == []


# -- what a service does not take


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stream_options", "Unrecognized request argument supplied: {}"),
        ("temperature", "Unsupported value: '{}' does not support 0.5 with this model."),
    ],
)
def test_a_refused_default_is_left_out(serve: Serve, name: str, message: str) -> None:
    """If the service refuses it; from then on at once."""
    service = serve(openai_refuses.option(name, message))
    executor = connect(service)
    assert [ask(executor, "hi"), ask(executor, "hi")] == ["fine", "fine"]
    assert len(service.chats) == 3


def test_a_refused_option_of_a_bot_is_not(serve: Serve) -> None:
    """The sentence names it, even if it was left out before."""
    words = "Unsupported value: '{}' does not support this value."
    sure = connect(serve(openai_refuses.option("temperature", words)))
    assert ask(sure, "hi") == "fine"
    sentence = catalog.NOT_AN_OPTION.format("temperature")
    assert ask(sure, "hi", llm_temperature="0.9") == sentence
    executor = connect(serve(openai_refuses.option("top_k", "{}: Extra inputs are not permitted")))
    assert ask(executor, "hi", llm_top_k="5") == catalog.NOT_AN_OPTION.format("top_k")


def test_an_option_may_have_another_name(serve: Serve) -> None:
    """Newer models of OpenAI know the longest answer under one."""
    words = "Unsupported parameter: '{}'. Use 'max_completion_tokens' instead."
    service = serve(openai_refuses.option("max_tokens", words))
    assert ask(connect(service), "hi", llm_max_tokens="9") == "fine"
    assert service.chats[-1].body["max_completion_tokens"] == 9


def test_the_options_are_the_sdks() -> None:
    """All but those that only other servers know; so --help needs no SDK, and never drifts."""
    from openai.resources.chat.completions import Completions

    known = set(inspect.signature(Completions.create).parameters)
    others = {option.name for option in OPTIONS if "not at OpenAI" in option.help}
    others |= {THINKING.name, THINKING_TOKENS.name, JSON_SCHEMA}  # ours
    assert {option.name for option in OPTIONS} - others <= known
    assert others & known == set()


def test_an_unknown_option_is_reported(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """It does not reach the service; an impossible value ends the answer."""
    caplog.set_level(logging.INFO)
    service = serve(fine)
    ask(connect(service), "hi", llm_hue="red")
    assert "llm_* (3 characters) of a Modelfile has no effect" in caplog.text
    assert "hue" not in service.chats[0].body
    answer = ask(connect(service), "hi", llm_temperature="warm")
    assert answer == "[The option llm_temperature must be a number.]"


# -- what the SDK takes beyond our options


def test_what_the_sdk_takes_is_sent(serve: Serve, tmp_path: Path) -> None:
    """From a -c file and from a bot, whose JSON is read; stop words add up."""
    service = serve(fine)
    path = tmp_path / "c.yaml"
    path.write_text(
        "user: me\nstop: [a, b]\nlogit_bias: {50256: -100}\n"
        "extra_body:\n  guided_json: {type: object}\n  top_p: 0.1\n",
        encoding="utf-8",
    )
    bot = {"llm_stop": "c", "llm_metadata": '{"k": "v"}', "llm_user": "bot"}
    ask(connect(service, "-c", path, "--stop", "d", "--top_p", 0.5), "hi", **bot)
    body = service.chats[0].body
    assert body["stop"] == ["a", "b", "d", "c"]
    assert body["user"] == "bot"
    assert body["metadata"] == {"k": "v"}
    assert body["logit_bias"] == {"50256": -100}
    assert body["guided_json"] == {"type": "object"}
    assert body["top_p"] == 0.5, "an option of its own wins"


def test_what_makes_no_text_is_named(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And not sent; nor is anything that is ours."""
    service = serve(fine)
    path = tmp_path / "c.yaml"
    path.write_text("tools: []\nstream: false\nmodel: x\nextra_headers: {a: b}\n", encoding="utf-8")
    bot = {"llm_extra_body": '{"model": "x"}', "llm_messages": "[]", "llm_stream": "false"}
    ask(connect(service, "-c", path, "--model", "m"), "hi", **bot)
    assert "without effect here: extra_headers, model, stream, tools" in caplog.text
    body = service.chats[0].body
    assert (body["model"], body["stream"]) == ("m", True)
    assert [one["content"] for one in body["messages"]] == ["hi"]
    assert "extra_headers" not in body
    assert "tools" not in body


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("usr: me", "did you mean user?"),
        ("extra_body: {model: x}", "extra_body must map names to values, without messages, model"),
        ("extra_body: 1", "extra_body must map"),
        ("user: .nan", "user must be something that JSON can hold"),
    ],
)
def test_a_file_that_cannot_be_meant_ends_the_start(
    text: str, words: str, serve: Serve, tmp_path: Path
) -> None:
    """In one line, before anything is asked."""
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(words)):
        connect(serve(fine), "-c", path)


# -- a history that fits


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        ("This model's maximum context length is 8192 tokens.", 400, ""),
        ("no", 400, "context_length_exceeded"),
        ("the request exceeds the available context size", 400, "exceed_context_size_error"),
        ("The input (5000 tokens) is longer than the model's context length", 400, ""),
        ("`inputs` must have less than 1024 tokens. Given: 1100", 422, ""),
        ("Request too large for gpt-4o on tokens per min: Limit 30000, Requested 31000", 429, ""),
        ("no", 413, ""),
    ],
)
def test_a_chat_that_is_too_long_loses_its_oldest_exchange(
    serve: Serve, words: str, status: int, code: str
) -> None:
    """As services word it; the system prompt and the last message stay."""
    service = serve(openai_counts_tokens.most(4, words, status=status, code=code))
    history = ["one", "1", "two", "2", "three"]
    assert ask(connect(service), *history, system="S") == "S | two | 2 | three"
    assert [len(one.said) for one in service.chats] == [6, 4]


def test_a_message_that_is_too_long_alone_is_a_sentence(serve: Serve) -> None:
    """There is nothing left to lose."""
    service = serve(openai_counts_tokens.most(0, "no", code="context_length_exceeded"))
    assert ask(connect(service), "one", "1", "two") == catalog.TOO_LONG
    assert [len(one.said) for one in service.chats] == [3, 1]


@pytest.mark.parametrize("window", ["option", "list"])
def test_a_chat_is_truncated_before_it_is_sent(serve: Serve, window: str) -> None:
    """To the context window that the operator gives, else the service; without a tokenizer."""
    service = serve(fine)
    service.models = [{"id": "gpt-4o", "max_model_len": 200}]
    options = ["--context_window", 200] if window == "option" else []
    if window == "option":
        service.models = []
    executor = connect(service, *options)
    ask(executor, "字" * 100, "a" * 90, "b" * 90, "c" * 90, "d" * 90)
    assert service.chats[0].said == ["b" * 90, "c" * 90, "d" * 90]
    assert ask(executor, "字" * 200) == catalog.TOO_LONG
    assert len(service.chats) == 1


def test_models_of_openai_are_known_by_their_family(serve: Serve) -> None:
    """Where neither operator nor service tells; other chats are not truncated."""
    executor = connect(serve(fine))
    assert executor.context_window("gpt-4") == 8192
    assert executor.context_window("gpt-4o-mini-2024-07-18") == 128_000
    assert executor.context_window("openai/gpt-4.1-nano") == 1_047_576
    assert executor.context_window("llama") is from_model_name("llama") is None


# -- pictures


def parts(content: list[dict[str, Any]]) -> list[str | bytes]:
    """Return the parts of a message: text, or the bytes of a picture."""
    return [
        part["text"]
        if part["type"] == "text"
        else base64.b64decode(part["image_url"]["url"].partition("base64,")[2])
        for part in content
    ]


def test_all_pictures_of_a_chat_are_sent(serve: Serve) -> None:
    """Where they stand in their messages; without --multimodal they stay text."""
    service, (one, two) = serve(fine), (data_url(png(n)) for n in (1, 2))
    said = (f"{one}\nlook", "I see", f"is {one} as {two}?")
    ask(connect(service, "--multimodal"), *said)
    first, reply, last = service.chats[0].said
    assert (parts(first), reply) == ([png(1), "look"], "I see")
    assert parts(last) == ["is", png(1), "as", png(2), "?"]
    ask(connect(service), *said)
    assert service.chats[1].said == list(said)


def test_a_model_that_does_not_see_says_so(serve: Serve) -> None:
    """A picture of an earlier message is a link again instead, so that the chat can go on."""

    def blind(one: Handler) -> None:
        if any(isinstance(content, list) for content in one.asked.said):
            return one.answer({"error": {"message": "gpt-4o is not a multimodal model"}}, 400)
        return one.tell("blind")

    service = serve(blind)
    executor = connect(service, "--multimodal")
    assert ask(executor, data_url(png())) == catalog.NO_IMAGES.format("gpt-4o")
    assert ask(executor, "look " + data_url(png()), "I see", "and now?") == "blind"
    assert service.chats[-1].said == ["look " + data_url(png()), "I see", "and now?"]


def test_a_model_that_takes_one_picture_gets_the_last(serve: Serve) -> None:
    """The others are links again, and a side note says so."""

    def one_only(talk: Handler) -> None:
        pictures = json.dumps(talk.asked.body).count("image_url")
        if pictures > 2:  # each has its name twice
            message = "At most 1 image(s) may be provided in one prompt."
            return talk.answer({"error": {"message": message}}, 400)
        return talk.tell("yes")

    service, urls = serve(one_only), [data_url(png(n)) for n in (1, 2, 3)]
    executor = connect(service, "--multimodal")
    assert ask(executor, urls[0], "a", f"{urls[1]} {urls[2]}") == "yes" + SIDE_NOTE.format(
        LAST_FILE_ONLY
    )
    assert service.chats[-1].said[:2] == [urls[0], "a"]
    assert parts(service.chats[-1].said[2]) == [urls[1], png(3)]


def test_an_upload_on_a_private_network_is_a_side_note(serve: Serve, site: Site) -> None:
    """The model gets the link and answers; the note is in the user's language."""
    service, url = serve(fine), site.write("storage/root/homes/3/a.png", png())
    executor = connect(service, "--multimodal")
    reason = "a.png was not read: its server is unknown here or on a private network."
    assert pieces(executor, f"{url}\nhm?")[-1] == SIDE_NOTE.format(reason)
    assert service.chats[0].said == [f"{url}\nhm?"]
    assert "未讀取 a.png" in ask(executor, f"{url}\nhm?", form={"lang": "zh-TW"})
    assert site.asked == []
    for allowed in (("--upload_hosts", f"127.0.0.1:{site.port}"), ("--allow_private_urls",)):
        opened = connect(service, "--multimodal", *allowed)
        assert "was not read" not in ask(opened, f"{url}\nhm?")
        assert parts(service.chats[-1].said[0]) == [png(), "hm?"]


def test_the_kernels_host_may_have_the_uploads(serve: Serve, site: Site) -> None:
    """On its own port or the web's, and of it only uploads."""
    upload = site.write("storage/root/homes/3/%E5%9C%96.png", png())
    site.folder.joinpath("storage/root/homes/3/圖.png").write_bytes(png())
    other = site.write("a.png", png())
    executor = connect(serve(fine), "--multimodal", "--kernel_url", f"{site.url}/")
    assert "was not read" not in ask(executor, f"{upload}\nhm?")
    assert "a.png was not read" in ask(executor, f"{other}\nhm?")


def test_other_files_are_named_in_a_side_note(serve: Serve, site: Site) -> None:
    """Their links stay in the text."""
    service, url = serve(fine), site.write("a%20b.pdf", b"")
    site.folder.joinpath("a b.pdf").write_bytes(b"%PDF-1.7")
    answer = ask(connect(service, "--multimodal", "--allow_private_urls"), f"{url}\nhm?")
    assert answer.endswith(SIDE_NOTE.format(LINK_NO_FILE.format("a b.pdf")))
    assert service.chats[0].said == [f"{url}\nhm?"]


def test_a_side_note_on_a_link_follows_the_answer_it_belongs_to(serve: Serve) -> None:
    """Not a sentence that ends an answer, which has nothing to do with it."""

    def refuse(talk: Handler) -> None:
        talk.answer({"error": {"message": "no", "code": "content_filter"}}, 400)

    answer = ask(connect(serve(refuse), "--multimodal"), "http://127.0.0.1/a.png ?")
    assert answer == catalog.NOT_ALLOWED


# -- the switch of a bot


@pytest.mark.parametrize(
    ("options", "switch", "sees"),
    [
        (("--multimodal",), None, True),
        (("--multimodal",), "true", True),
        (("--multimodal",), "false", False),
        (("--allow_multimodal",), None, False),
        (("--allow_multimodal",), "true", True),
        (("--allow_multimodal",), "TRUE", True),
        ((), None, False),
        ((), "false", False),
    ],
)
def test_a_bot_may_switch_pictures_on_and_off(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    options: tuple[str, ...],
    switch: str | None,
    sees: bool,
) -> None:
    """As far as the operator allows it; the service never hears of the switch."""
    service = serve(fine)
    said = {} if switch is None else {"llm_enable_multimodal": switch}
    assert ask(connect(service, *options), data_url(png()), **said) == "Hello, 世界!"
    assert isinstance(service.chats[0].said[0], list) is sees
    assert "enable_multimodal" not in service.chats[0].body
    assert "unknown options" not in caplog.text


def test_a_bot_may_not_switch_pictures_on_by_itself(serve: Serve) -> None:
    """The user is told, in their language."""
    service = serve(fine)
    on = {"llm_enable_multimodal": "true"}
    assert ask(connect(service), "hi", **on) == catalog.NO_MULTIMODAL
    assert "不允許" in ask(connect(service), "hi", form={"lang": "zh-TW"}, **on)
    wrong = ask(connect(service), "hi", llm_enable_multimodal="maybe")
    assert wrong == "[The option llm_enable_multimodal must be true or false.]"
    assert service.chats == []


def test_what_is_shown_at_status(serve: Serve) -> None:
    """The service and the model, and no key."""
    service = serve(fine)
    executor = connect(service, "--api_key", KEY)
    facts = executor._LLMExecutor__status.facts
    assert facts == {"service": service.url, "model": "gpt-4o", "context_window": 128_000}


def test_nothing_is_asked_without_a_question(serve: Serve) -> None:
    """Neither in English nor in Chinese."""
    service = serve(fine)
    with pytest.raises(AnswerError):
        pieces(connect(service), " ")
    assert ask(connect(service), " ", form={"lang": "zh-TW"}) == "[尚未輸入訊息]"
    assert service.chats == []
