"""The geminipro backend through the real SDK, against services with one odd behaviour each.

Covers client, completion and response.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backends._cloud import errors
from backends._cloud.sentences import (
    BROKEN_OFF,
    CUT_BY_LENGTH,
    CUT_BY_RECITATION,
    CUT_BY_RULES,
    ENDED_ODDLY,
    WANTS_A_TOOL,
)
from backends._http.tls import CA_VARIABLES
from backends._media.sentences import LINK_NO_FILE, LINK_PRIVATE
from backends.geminipro import OPTIONS, GeminiproExecutor
from kuwa_min.chat import catalog
from kuwa_min.chat.side_notes import SIDE_NOTE
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options.constraint import KINDS
from kuwa_min.serving.generations.generator_runner import GeneratorRunner
from tests.backends._media.test_images import data_url, png
from tests.fakes.gemini import breaks_off as gemini_breaks_off
from tests.fakes.gemini import is_silent as gemini_is_silent
from tests.fakes.gemini import refuses as gemini_refuses
from tests.fakes.gemini import talks_garbage as gemini_talks_garbage
from tests.fakes.gemini.server import TIMEOUT, Handler, Service, gemini_server, piece
from tests.support.cloud_chats import ask, pieces, start
from tests.support.programs import ROOT
from tests.support.upload_site import Site

pytest.importorskip("google.generativeai", reason="geminipro needs google-generativeai")

KEY = "AIza-operator-0123456789"
USERS_KEY = "AIza-user-9876543210"
Serve = Callable[..., Service]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no key, proxy or CA in the environment, and a short back-off."""
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(errors, "BACKOFF_FIRST", 0.001)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give what starts a service for a test; end them all."""
    with ExitStack() as stack:

        def begin(talk: Callable[[Handler], None], **more: Any) -> Service:
            return stack.enter_context(gemini_server(talk, **more))

        yield begin


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Give what returns a backend that asks a service; close all connections."""
    begun = []

    def begin(service: Service | str, *options: object, key: str = KEY) -> Any:
        url = service if isinstance(service, str) else service.url
        words = ["--api_endpoint", url, *options, *(["--api_key", key] if key else [])]
        begun.append(start(GeminiproExecutor, *words))
        return begun[-1]

    yield begin
    for executor in begun:
        executor.client.close()


def fine(talk: Handler) -> None:
    """Answer as a service should."""
    talk.tell("Hello", ", 世界", "!")


# -- an answer


def test_an_answer_comes_as_text(serve: Serve, connect: Any) -> None:
    """Through the SDK; what was asked is what was said, and assistants are models."""
    service = serve(fine)
    executor = connect(service, "--system_prompt", "Be kind.", "--model", "m", "--top_k", 7)
    assert ask(executor, "1", "2", "3", before_prompt="<", llm_top_p="0.5") == "Hello, 世界!"
    (asked,) = service.asked
    assert asked.path.startswith("/v1beta/models/m:streamGenerateContent?")
    assert asked.body == {
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "1"}]},
            {"role": "model", "parts": [{"text": "2"}]},
            {"role": "user", "parts": [{"text": "<3"}]},
        ],
        "generationConfig": {"topP": 0.5, "topK": 7},
    }


def test_neighbours_of_one_role_are_one_message(serve: Serve, connect: Any) -> None:
    """The bot's examples and the chat; its own system prompt wins over the operator's."""
    service = serve(fine)
    executor = connect(service, "--system_prompt", "Be kind.")
    ask(executor, "now", system="Be brief.", message="user before")
    assert service.asked[0].said == [("user", "before\n\nnow")]
    assert service.asked[0].body["systemInstruction"]["parts"] == [{"text": "Be brief."}]


def test_no_system_prompt_goes_to_a_model_that_must_have_none(serve: Serve, connect: Any) -> None:
    """With --no_system_prompt."""
    service = serve(fine)
    ask(connect(service, "--no_system_prompt"), "hi", system="Be kind.")
    assert "systemInstruction" not in service.asked[0].body


def test_a_bot_chooses_its_model(serve: Serve, connect: Any) -> None:
    """As llm_model, also a tuned one; a path to somewhere else is no name."""
    service = serve(fine)
    executor = connect(service)
    for name in ("other", "models/b", "tunedModels/c"):
        assert ask(executor, "hi", llm_model=name) == "Hello, 世界!"
    paths = [asked.path.partition(":")[0] for asked in service.asked]
    assert paths == ["/v1beta/models/other", "/v1beta/models/b", "/v1beta/tunedModels/c"]
    for name in ("../../x", "a/b", "a?b=c", "模型"):
        assert ask(executor, "hi", llm_model=name) == catalog.NO_MODEL.format(name)
    assert len(service.asked) == 3


def test_every_piece_is_shown_as_soon_as_it_is_whole(serve: Serve, connect: Any) -> None:
    """The service says the next one only when the last one was taken."""
    words, taken = ["one ", "two ", "three"], threading.Semaphore(0)

    def talk(one: Handler) -> None:
        one.begin()
        for word in words:
            one.say(word)
            assert taken.acquire(timeout=TIMEOUT)
        one.end()

    shown: list[str] = []

    def write(text: str) -> None:
        shown.append(text)
        taken.release()

    pieces(connect(serve(talk)), "hi", write=write)
    assert shown == words


def test_connections_are_shared_by_all_users(serve: Serve, connect: Any) -> None:
    """Also with another key: it goes with the request."""
    service = serve(fine)
    executor = connect(service)
    for key in ("", USERS_KEY, ""):
        ask(executor, "hi", form={"google_token": key})
    assert [asked.key for asked in service.asked] == [KEY, USERS_KEY, KEY]
    assert len({asked.port for asked in service.asked}) == 1


@pytest.mark.parametrize(
    ("talk", "text"),
    [
        (gemini_talks_garbage.squeezed, "squeezed"),
        (gemini_talks_garbage.until_the_end, "to the end"),
    ],
)
def test_other_ways_to_send_an_answer_are_understood(
    serve: Serve, connect: Any, talk: Callable[[Handler], None], text: str
) -> None:
    """Compressed, or ended by the connection's end and without a reason."""
    assert ask(connect(serve(talk)), "hi") == text


WORDS = ["one ", "世界 ", "{]"]
OBJECTS = [*map(piece, WORDS), {"candidates": [{"index": 0, "finishReason": "STOP"}]}]
FRAMINGS = {
    "array": json.dumps(OBJECTS, indent=2),
    "BOM": "\ufeff" + json.dumps(OBJECTS),
    "events": "".join(f"data: {json.dumps(one)}\r\n\r\n" for one in OBJECTS),
    "events with [DONE]": "".join(f"data: {json.dumps(one)}\n\n" for one in OBJECTS)
    + "data: [DONE]\n\n",
    "a line each": "".join(f"{json.dumps(one)}\n" for one in OBJECTS),
    "one object": json.dumps({**piece("".join(WORDS))}),
    "a candidate alone": json.dumps({"candidates": piece("".join(WORDS))["candidates"][0]}),
    "one text": json.dumps({"candidates": [{"content": {"parts": {"text": "".join(WORDS)}}}]}),
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_a_gateway_may_frame_an_answer_otherwise(serve: Serve, connect: Any, name: str) -> None:
    """Its first bytes tell; nothing is lost, in whatever pieces it comes."""
    data = FRAMINGS[name].encode()

    def talk(one: Handler) -> None:
        one.begin()
        for at in range(len(data)):
            one.raw(data[at : at + 1])
        one.wfile.write(b"0\r\n\r\n")

    assert ask(connect(serve(talk)), "hi") == "".join(WORDS)


def test_what_is_not_understood_is_said_once(
    serve: Serve, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """By its kind, and no word of it; an answer of nothing else is garbled."""
    picture = {"candidates": [{"content": {"parts": [{"inlineData": {"data": "secret"}}]}}]}
    odd = [{"secret": 1}, 7, picture]
    executor = connect(serve(gemini_talks_garbage.with_body(json.dumps([*odd, *OBJECTS]).encode())))
    assert {ask(executor, "hi") for _ in "12"} == {"".join(WORDS)}
    kinds = "an object with secret; int; a part with inlineData"
    assert caplog.text.count(f"not understood: {kinds}") == 1
    assert caplog.text.count("not understood") == 1
    lost = connect(serve(gemini_talks_garbage.with_body(json.dumps(odd).encode())))
    assert ask(lost, "hi") == catalog.GARBLED


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"error": "no key"}', catalog.SERVICE_FAILED.format(500)),
        (b'[{"error": {"code": 400, "message": "x"}}]', catalog.SERVICE_REFUSED.format(400)),
        (b'event: error\ndata: {"code": 429, "message": "limit: 0"}\n\n', catalog.QUOTA),
        (b"event: error\ndata: no\n\n", catalog.SERVICE_FAILED.format(500)),
    ],
)
def test_an_error_after_status_200_has_its_sentence(
    serve: Serve, connect: Any, body: bytes, sentence: str
) -> None:
    """However a gateway wraps it."""
    assert ask(connect(serve(gemini_talks_garbage.with_body(body))), "hi") == sentence


def test_a_model_may_refuse_a_system_prompt(serve: Serve, connect: Any) -> None:
    """As Gemma does: it goes into the first message, from then on at once."""

    def talk(one: Handler) -> None:
        if "systemInstruction" in one.asked.body:
            message = "Developer instruction is not enabled for models/gemma-3-27b-it"
            return one.refuse(400, gemini_refuses.error(400, "INVALID_ARGUMENT", message))
        return one.tell("fine")

    service = serve(talk)
    executor = connect(service)
    answers = [ask(executor, "1", "2", "3", system="Be kind.") for _ in "12"]
    assert answers == ["fine", "fine"]
    assert [asked.said[0] for asked in service.asked[1:]] == [("user", "Be kind.\n\n1")] * 2


def test_a_model_that_refuses_every_prompt_is_not_asked_for_ever(
    serve: Serve, connect: Any
) -> None:
    """There is nothing left to write otherwise."""
    refused = gemini_refuses.error(400, "INVALID_ARGUMENT", "Developer instruction: no")
    service = serve(gemini_refuses.always(400, refused))
    assert ask(connect(service), "hi", system="Be kind.") == catalog.NOT_ACCEPTED
    assert ask(connect(service), "hi") == catalog.NOT_ACCEPTED
    assert len(service.asked) == 3


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_another_host_gets_neither_chat_nor_key(
    serve: Serve, connect: Any, status: int
) -> None:
    """The library that sends would follow it."""
    other = serve(fine)
    target = f"{other.url}/v1beta/models/m:streamGenerateContent"
    service = serve(lambda talk: talk.refuse(status, b"", Location=target))
    assert ask(connect(service), "hi") == catalog.GARBLED
    assert (len(service.asked), other.asked) == (1, [])


def test_a_redirect_is_named(serve: Serve, connect: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With the endpoint to give instead."""
    target = "https://two.test/gateway/v1beta/models/m:streamGenerateContent?key=secret"
    service = serve(lambda talk: talk.refuse(308, b"", Location=target))
    assert ask(connect(service), "hi") == catalog.GARBLED
    assert "say --api_endpoint https://two.test/gateway: redirected (308)" in caplog.text
    assert "secret" not in caplog.text


def test_tokens_are_counted(serve: Serve, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the service says at the end, thinking included."""
    usage = {
        "promptTokenCount": 5,
        "cachedContentTokenCount": 3,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 100,
    }
    executor = connect(serve(lambda talk: talk.tell("a", "b", **usage)))
    counted: list[dict[str, int]] = []
    monkeypatch.setattr(executor, "count_tokens", lambda **counts: counted.append(counts))
    ask(executor, "hi")
    assert counted == [{"read": 5, "written": 107, "cached": 3}]


@pytest.mark.parametrize("count", [10**30, 10**900, -1])
def test_counts_that_cannot_be_true_spoil_no_metric(
    serve: Serve, connect: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Nor an answer: a counter that is once too large stays so."""
    usage = {"promptTokenCount": count, "candidatesTokenCount": 7}
    executor = connect(serve(lambda talk: talk.tell("a", **usage)))
    counted: list[dict[str, int]] = []
    monkeypatch.setattr(executor, "count_tokens", lambda **counts: counted.append(counts))
    assert ask(executor, "hi") == "a"
    assert counted == [{"read": 0, "written": 7, "cached": 0}]


def test_a_number_without_an_end_is_no_json(serve: Serve, connect: Any) -> None:
    """Old Pythons take quadratic time for it."""
    body = b'[{"usageMetadata":{"promptTokenCount":%b}}]' % (b"9" * 4000)
    assert ask(connect(serve(gemini_talks_garbage.with_body(body))), "hi") == catalog.GARBLED


def test_a_compression_that_is_not_read_is_named(
    serve: Serve, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Although none was asked for."""
    service = serve(lambda talk: talk.refuse(200, b"\x0b\x02\x80x\x03", Content_Encoding="br"))
    assert ask(connect(service), "hi") == catalog.GARBLED
    assert "(application/json; charset=UTF-8, br)" in caplog.text


def test_thoughts_and_other_candidates_are_not_shown(serve: Serve, connect: Any) -> None:
    """Nor what is not as it should be."""
    parts = [
        {"text": "hm", "thought": True},
        {"text": "yes"},
        {"inlineData": {}},
        None,
        {"text": None},
    ]

    def talk(one: Handler) -> None:
        one.begin()
        one.send_object({"candidates": [{"index": 1, "content": {"parts": [{"text": "no"}]}}]})
        one.send_object({"candidates": [{"content": {"parts": parts}}], "usageMetadata": []})
        one.send_object({"candidates": {}, "promptFeedback": None, "error": {}})
        one.end()

    assert ask(connect(serve(talk)), "hi") == "yes"


# -- pictures


def inline(data: bytes, media_type: str) -> dict[str, Any]:
    """Return a file as a part of a message."""
    return {"inlineData": {"mimeType": media_type, "data": base64.b64encode(data).decode()}}


def parts(service: Service, message: int) -> list[dict[str, Any]]:
    """Return the parts of a message of the last chat that a service was asked."""
    found: list[dict[str, Any]] = service.asked[-1].body["contents"][message]["parts"]
    return found


def test_all_pictures_of_a_chat_are_sent(serve: Serve, connect: Any) -> None:
    """Where they stand in their messages, and only with --multimodal."""
    service, (one, two) = serve(fine), (data_url(png(n)) for n in (1, 2))
    said = (f"{one}\nWhat is this?", "A square.", f"And {two}?")
    ask(connect(service, "--multimodal"), *said)
    assert parts(service, 0) == [inline(png(1), "image/png"), {"text": "What is this?"}]
    assert parts(service, 2) == [{"text": "And"}, inline(png(2), "image/png"), {"text": "?"}]
    ask(connect(service), *said)
    assert [text for _, text in service.asked[-1].said] == list(said)


def test_documents_sounds_and_texts_are_sent(serve: Serve, connect: Any, site: Site) -> None:
    """With the MIME type that their first bytes tell; what Gemini does not take is named."""
    service = serve(fine)
    pdf, sound = b"%PDF-1.7\n...", b"ID3\x04\0\0\0\0\0\0"
    urls = [
        site.write("a.pdf", pdf),
        site.write("a.bin", sound),
        site.write("a.html", "圖片說明".encode()),
        site.write("a.zip", b"PK\x03\x04"),
    ]
    answer = ask(connect(service, "--multimodal", "--allow_private_urls"), " ".join(urls))
    assert parts(service, 0) == [
        inline(pdf, "application/pdf"),
        inline(sound, "audio/mp3"),
        inline("圖片說明".encode(), "text/plain"),
        {"text": urls[3]},
    ]
    assert answer.endswith(SIDE_NOTE.format(LINK_NO_FILE.format("a.zip")))


def test_an_upload_on_a_private_network_is_a_side_note(
    serve: Serve, connect: Any, site: Site
) -> None:
    """The model gets the link and answers, unless the site's host is named."""
    service, url = serve(fine), site.write("storage/root/homes/3/a.png", png(2, 2))
    answer = pieces(connect(service, "--multimodal"), f"{url}\nhm?")
    assert answer[-1] == SIDE_NOTE.format(LINK_PRIVATE.format("a.png"))
    assert len(answer) > 1
    assert (parts(service, 0), site.asked) == ([{"text": f"{url}\nhm?"}], [])
    named = connect(service, "--multimodal", "--upload_hosts", f"127.0.0.1:{site.port}")
    assert "was not read" not in ask(named, f"{url}\nhm?")
    assert parts(service, 0) == [inline(png(2, 2), "image/png"), {"text": "hm?"}]


def test_a_bot_may_switch_files_on_if_the_operator_allows_it(serve: Serve, connect: Any) -> None:
    """As Kuwa's own multimodal bot does; Google never hears of the switch."""
    service, said = serve(fine), f"{data_url(png(2, 2))} ?"
    on, off = ({"llm_enable_multimodal": value} for value in ("true", "false"))
    assert ask(connect(service), said, **on) == catalog.NO_MULTIMODAL
    assert service.asked == []
    ask(connect(service, "--allow_multimodal"), said, **on)
    assert parts(service, 0)[0] == inline(png(2, 2), "image/png")
    ask(connect(service, "--multimodal"), said, **off)
    assert parts(service, 0) == [{"text": said}]
    assert "multimodal" not in json.dumps([one.body for one in service.asked]).lower()


def test_a_model_that_takes_no_pictures_says_so(serve: Serve, connect: Any) -> None:
    """Of the last message; one of an earlier message is left out."""
    service = serve(gemini_refuses.all_pictures)
    executor = connect(service, "--multimodal", "--model", "m")
    assert ask(executor, data_url(png(2, 2))) == catalog.NO_IMAGES.format("m")
    assert ask(executor, f"See {data_url(png(2, 2))}", "no", "And now?") == "text"


# -- how an answer ends


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        (2, CUT_BY_LENGTH),
        ("MAX_TOKENS", CUT_BY_LENGTH),
        (3, CUT_BY_RULES),
        ("SAFETY", CUT_BY_RULES),
        (7, CUT_BY_RULES),
        (8, CUT_BY_RULES),
        (9, CUT_BY_RULES),
        (4, CUT_BY_RECITATION),
        (10, WANTS_A_TOOL),
        ("UNEXPECTED_TOOL_CALL", WANTS_A_TOOL),
        (6, ENDED_ODDLY.format("LANGUAGE")),
        (99, ENDED_ODDLY.format("99")),
        ("<script>\n", ENDED_ODDLY.format("OTHER")),
        (1, ""),
        ("STOP", ""),
        (0, ""),
    ],
)
def test_the_user_reads_why_an_answer_ended(
    serve: Serve, connect: Any, reason: int | str, note: str
) -> None:
    """Beside the answer, unless it ended well."""
    executor = connect(serve(lambda talk: talk.tell("text", reason=reason)))
    assert ask(executor, "hi") == "text" + (SIDE_NOTE.format(note) if note else "")


@pytest.mark.parametrize(
    ("reason", "answer"),
    [
        (1, catalog.NO_ANSWER),
        (3, catalog.NOT_ALLOWED),
        (2, SIDE_NOTE.format(CUT_BY_LENGTH) + "\n" + catalog.NO_ANSWER),
        (4, SIDE_NOTE.format(CUT_BY_RECITATION) + "\n" + catalog.NO_ANSWER),
    ],
)
def test_an_answer_without_text_is_explained(
    serve: Serve, connect: Any, reason: int, answer: str
) -> None:
    """By its reason, and by what can be done."""
    executor = connect(serve(lambda talk: talk.tell(reason=reason)))
    assert ask(executor, "hi") == answer


@pytest.mark.parametrize("reason", [1, 4, "SAFETY", "NEW_REASON"])
def test_a_blocked_prompt_is_explained(
    serve: Serve, connect: Any, caplog: pytest.LogCaptureFixture, reason: int | str
) -> None:
    """In the user's language; the log has the reason."""

    def talk(one: Handler) -> None:
        one.begin()
        one.send_object({"promptFeedback": {"blockReason": reason}})
        one.close_array()

    executor = connect(serve(talk))
    assert ask(executor, "hi") == catalog.NOT_ALLOWED
    chinese = ask(executor, "hi", form={"lang": "zh-TW,zh;q=0.9"})
    assert chinese == catalog.NOT_ALLOWED.render("zh")
    assert "the prompt was blocked: " in caplog.text


def test_an_empty_array_is_no_answer(serve: Serve, connect: Any) -> None:
    """The user is told."""
    assert ask(connect(serve(gemini_talks_garbage.with_body(b"[]"))), "hi") == catalog.NO_ANSWER


# -- keys


def test_users_with_keys_of_their_own_chat_at_the_same_time(serve: Serve, connect: Any) -> None:
    """Eight users at once; each sees the answer to their own key, many times over."""
    users, rounds = 8, 10
    together = threading.Barrier(users, timeout=TIMEOUT)

    def talk(one: Handler) -> None:
        together.wait()  # all are being answered now
        one.tell(f"{one.asked.key} {one.asked.said[0][1]}")

    executor = connect(serve(talk), "--concurrent_req_limit", users)
    answers: dict[int, list[str]] = {}

    def be(number: int) -> None:
        form = {"google_token": f"key-of-{number}"}
        answers[number] = [ask(executor, f"from {number}", form=form) for _ in range(rounds)]

    threads = [threading.Thread(target=be, args=(number,)) for number in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert answers == {n: [f"key-of-{n} from {n}"] * rounds for n in range(users)}


def test_a_key_is_asked_for_if_there_is_none(serve: Serve, connect: Any) -> None:
    """In Kuwa's own words; nothing is sent."""
    service = serve(fine)
    assert ask(connect(service, key=""), "hi") == (
        "[Please enter your Google API Token in the user settings of the website "
        "in order to use this model.]"
    )
    assert service.asked == []


def test_the_key_may_come_from_a_file_or_the_environment(
    serve: Serve, connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of processes does not show it."""
    service, file = serve(fine), tmp_path / "key"
    file.write_text("from-a-file\n", encoding="ascii")
    ask(connect(service, "--api_key_file", file, key=""), "hi")
    monkeypatch.setenv("GOOGLE_API_KEY", "from-the-environment")
    ask(connect(service, key=""), "hi")
    assert [one.key for one in service.asked] == ["from-a-file", "from-the-environment"]


@pytest.mark.parametrize("token", ["two words", "鑰匙", "line\nbreak"])
def test_what_cannot_be_a_key_is_not_sent(serve: Serve, connect: Any, token: str) -> None:
    """It could change the head of the request."""
    service = serve(fine)
    assert ask(connect(service), "hi", form={"google_token": token}) == catalog.BAD_GOOGLE_KEY
    assert service.asked == []


@pytest.mark.parametrize(
    "talk",
    [
        fine,
        gemini_refuses.always(400, gemini_refuses.WRONG_KEY),
        gemini_refuses.always(403, {"code": 403, "message": f"{USERS_KEY} may not"}),
        gemini_refuses.always(400, f"<p>{USERS_KEY}</p>".encode()),
        gemini_talks_garbage.before_the_head,
        gemini_talks_garbage.with_body(f"[{USERS_KEY}".encode()),
        gemini_breaks_off.always,
    ],
)
def test_no_key_and_no_word_is_seen_anywhere(
    serve: Serve, connect: Any, caplog: pytest.LogCaptureFixture, talk: Callable[[Handler], None]
) -> None:
    """Neither in an answer nor in any log at DEBUG; not even if the service quotes it."""
    caplog.set_level(logging.DEBUG)
    service = serve(talk)
    answer = ask(connect(service), "a secret wish", form={"google_token": USERS_KEY})
    assert service.asked[0].key == USERS_KEY
    assert USERS_KEY not in caplog.text + answer
    assert "secret wish" not in caplog.text + answer
    assert not any(USERS_KEY in one.path for one in service.asked), "an address is logged elsewhere"


# -- what is refused


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (gemini_refuses.WRONG_KEY, catalog.BAD_GOOGLE_KEY),
        (gemini_refuses.FORBIDDEN, catalog.FORBIDDEN.format("m")),
        (gemini_refuses.NO_MODEL, catalog.NO_MODEL.format("m")),
        (gemini_refuses.NOT_HERE, catalog.NOT_OFFERED),
        (gemini_refuses.USED_UP, catalog.QUOTA),
        (gemini_refuses.BAD_TOP_P, catalog.NOT_AN_OPTION.format("top_p")),
        (gemini_refuses.error(400, "INVALID_ARGUMENT", "?"), catalog.SERVICE_REFUSED.format(400)),
        (gemini_refuses.error(401, "UNAUTHENTICATED", "?"), catalog.BAD_GOOGLE_KEY),
    ],
)
def test_an_error_response_is_one_sentence_that_helps(
    serve: Serve,
    connect: Any,
    caplog: pytest.LogCaptureFixture,
    error: dict[str, Any],
    sentence: str,
) -> None:
    """The first one counts: asking again would not help; the cause is in the log."""
    service = serve(gemini_refuses.always(error["code"], error))
    assert ask(connect(service, "--model", "m"), "hi") == sentence
    assert len(service.asked) == 1
    assert f"error {error['code']} {error['status']}" in caplog.text


def test_a_sentence_is_said_in_chinese_to_those_who_read_it(serve: Serve, connect: Any) -> None:
    """With the name in its place."""
    service = serve(gemini_refuses.always(404, gemini_refuses.NO_MODEL))
    answer = ask(connect(service, "--model", "m"), "hi", form={"lang": "zh-TW"})
    assert answer == catalog.NO_MODEL.format("m").render("zh")


@pytest.mark.parametrize(
    "error", [gemini_refuses.BUSY, gemini_refuses.TOO_MANY, gemini_refuses.BROKEN]
)
def test_a_service_that_is_busy_is_asked_again(
    serve: Serve, connect: Any, error: dict[str, Any]
) -> None:
    """Until it answers."""
    service = serve(gemini_refuses.so_many_times(2, error))
    assert ask(connect(service), "hi") == "here I am"
    assert len(service.asked) == 3


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (gemini_refuses.BUSY, catalog.BUSY),
        (gemini_refuses.TOO_MANY, catalog.BUSY),
        (gemini_refuses.BROKEN, catalog.SERVICE_FAILED.format(500)),
    ],
)
def test_a_service_that_stays_busy_is_given_up(
    serve: Serve, connect: Any, error: dict[str, Any], sentence: str
) -> None:
    """After a few tries, with a sentence."""
    service = serve(gemini_refuses.always(error["code"], error))
    assert ask(connect(service), "hi") == sentence
    assert len(service.asked) == errors.MAX_ATTEMPTS


def test_a_service_that_wants_a_long_wait_is_given_up(serve: Serve, connect: Any) -> None:
    """At once: no user waits that long for a first word."""
    service = serve(gemini_refuses.always(503, gemini_refuses.BUSY, Retry_After="3600"))
    assert ask(connect(service), "hi") == catalog.BUSY
    assert len(service.asked) == 1


def test_an_error_in_the_middle_ends_the_answer_with_a_sentence(serve: Serve, connect: Any) -> None:
    """What was said stays; it is not asked again."""
    service = serve(gemini_refuses.in_the_middle)
    assert ask(connect(service), "hi") == f"half of \n{catalog.SERVICE_FAILED.format(500)}"
    assert len(service.asked) == 1


def test_an_answer_that_breaks_off_is_marked(serve: Serve, connect: Any) -> None:
    """With a side note: it may have been whole or not."""
    note = SIDE_NOTE.format(BROKEN_OFF)
    for talk in (gemini_breaks_off.in_the_middle, gemini_breaks_off.in_an_object):
        assert ask(connect(serve(talk)), "hi") == f"half of {note}"


@pytest.mark.parametrize(
    "talk", [gemini_breaks_off.once_before_the_head, gemini_breaks_off.once_before_the_first_word]
)
def test_an_answer_that_breaks_off_before_its_first_word_is_asked_for_again(
    serve: Serve, connect: Any, talk: Callable[[Handler], None]
) -> None:
    """Nothing was shown yet."""
    assert ask(connect(serve(talk)), "hi") == "here I am"


def test_a_service_that_always_breaks_off_cannot_be_reached(serve: Serve, connect: Any) -> None:
    """After a few tries."""
    service = serve(gemini_breaks_off.always)
    assert ask(connect(service), "hi") == catalog.UNREACHABLE
    assert len(service.asked) == errors.MAX_ATTEMPTS


@pytest.mark.parametrize(
    "talk",
    [
        gemini_talks_garbage.with_body(b"<html>Welcome!</html>"),
        gemini_talks_garbage.with_body(b"\x00\xff\xfe" * 100),
        gemini_talks_garbage.with_body(b'{"error": {}}'),
        gemini_talks_garbage.before_the_head,
        gemini_talks_garbage.elsewhere,
        gemini_talks_garbage.damaged_gzip,
        gemini_refuses.always(404, b"<html>Not here</html>"),
    ],
)
def test_a_malformed_response_is_one_sentence(
    serve: Serve, connect: Any, talk: Callable[[Handler], None]
) -> None:
    """Which says that the address may be wrong; a redirection is not followed."""
    service = serve(talk)
    assert ask(connect(service), "hi") == catalog.GARBLED
    assert len(service.asked) == 1


# -- how much fits


def test_a_chat_that_is_too_long_loses_its_oldest_exchanges(serve: Serve, connect: Any) -> None:
    """By --limit; the last message stays, or the user is told."""
    service = serve(fine)
    executor = connect(service, "--limit", 50)
    ask(executor, "old " * 30, "answer", "new")
    assert service.asked[0].said == [("user", "new")]
    assert ask(executor, "long " * 200) == catalog.TOO_LONG


def test_a_chat_that_the_service_finds_too_long_is_truncated(serve: Serve, connect: Any) -> None:
    """Until it fits; if the last message alone does not, the user is told."""
    service = serve(gemini_refuses.all_but_short_chats)
    assert ask(connect(service), "one", "two", "three", "four", "five") == "short"
    refusing = serve(gemini_refuses.always(400, gemini_refuses.TOO_LONG))
    assert ask(connect(refusing), "one") == catalog.TOO_LONG
    assert len(refusing.asked) == 1


# -- stopping


@pytest.mark.parametrize(
    "talk",
    [
        gemini_is_silent.before_the_head,
        gemini_is_silent.before_the_first_word,
        gemini_is_silent.after_the_first_word,
    ],
)
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_stop_ends_the_request_at_once_and_the_service_sees_it(
    serve: Serve,
    connect: Any,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    talk: Callable[[Handler], None],
    *,
    encrypted: bool,
) -> None:
    """Also while nothing has come yet; the next chat finds everything in order."""
    runner = GeneratorRunner()

    def once(one: Handler) -> None:
        (fine if one.number > 1 else talk)(one)

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.path))
    service = serve(once, tls=certificate.tls() if encrypted else None)
    executor = connect(service)
    thread = threading.Thread(target=pieces, args=(executor, "hi"), kwargs={"runner": runner})
    thread.start()
    assert service.waits.wait(TIMEOUT)
    runner.cancel()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert service.gone.wait(TIMEOUT)
    assert ask(executor, "again") == "Hello, 世界!"


def test_a_stop_ends_the_wait_before_another_try(
    serve: Serve, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy service is not asked again for a user who left."""
    monkeypatch.setattr(errors, "BACKOFF_FIRST", 60.0)
    monkeypatch.setattr(errors, "BACKOFF_MAX", 60.0)
    refused, runner = threading.Event(), GeneratorRunner()

    def talk(one: Handler) -> None:
        one.refuse(503, gemini_refuses.BUSY)
        refused.set()

    service = serve(talk)
    executor = connect(service)
    thread = threading.Thread(target=pieces, args=(executor, "hi"), kwargs={"runner": runner})
    thread.start()
    assert refused.wait(TIMEOUT)
    runner.cancel()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert len(service.asked) == 1


# -- networks


class Certificate:
    """A self-signed certificate for this machine."""

    def __init__(self, folder: Path) -> None:
        self.path, self._key = folder / "cert.pem", folder / "key.pem"
        options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
        options += ["-addext", "subjectAltName=IP:127.0.0.1"]
        files = ["-out", str(self.path), "-keyout", str(self._key)]
        subprocess.run(
            ["openssl", "req", "-x509", *options, *files], check=True, capture_output=True
        )

    def tls(self) -> ssl.SSLContext:
        """Return what serves with it."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.path, self._key)
        return tls


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make one."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    return Certificate(tmp_path_factory.mktemp("tls"))


def test_a_self_signed_certificate_is_refused(
    serve: Serve,
    connect: Any,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a sentence; the log says how to trust it, and then it is trusted."""
    service = serve(fine, tls=certificate.tls())
    assert ask(connect(service), "hi") == catalog.NOT_TRUSTED
    assert "SSL_CERT_FILE" in caplog.text
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.path))
    assert ask(connect(service), "hi") == "Hello, 世界!"


def test_a_service_without_tls_at_an_https_address_is_one_sentence(
    serve: Serve, connect: Any
) -> None:
    """It cannot be reached so."""
    service = serve(fine)
    answer = ask(connect(service.url.replace("http:", "https:")), "hi")
    assert answer == catalog.UNREACHABLE


def test_a_service_that_is_not_there_is_one_sentence(
    connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the system's own words."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert ask(connect(f"http://127.0.0.1:{port}"), "hi") == catalog.UNREACHABLE
    assert "ConnectionRefusedError: Connection refused" in caplog.text
    assert ask(connect("http://no-such-host.invalid"), "hi") == catalog.UNREACHABLE
    assert "gaierror" in caplog.text


def test_a_proxy_of_the_environment_is_used(
    serve: Serve, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it often is the only way out; it is asked for the service's own address."""
    proxy = serve(fine)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    assert ask(connect("http://gemini.example"), "hi") == "Hello, 世界!"
    assert proxy.asked[0].path.startswith("http://gemini.example/v1beta/models/")


def test_an_endpoint_may_have_a_path(serve: Serve, connect: Any) -> None:
    """As gateways have, with a slash at its end or without."""
    service = serve(fine)
    for end in ("", "/"):
        assert ask(connect(f"{service.url}/gate{end}"), "hi") == "Hello, 世界!"
    assert {asked.path.partition("/models")[0] for asked in service.asked} == {"/gate/v1beta"}


@pytest.mark.parametrize(
    ("endpoint", "warns"),
    [("http://gemini.example", True), ("http://127.0.0.1:9", False), ("https://g.example", False)],
)
def test_an_operator_who_sends_keys_in_the_clear_is_warned(
    connect: Any, caplog: pytest.LogCaptureFixture, endpoint: str, *, warns: bool
) -> None:
    """At the start, unless they stay on this machine."""
    connect(endpoint)
    assert ("unencrypted" in caplog.text) is warns


def test_cookies_are_not_kept(serve: Serve, connect: Any) -> None:
    """They would tell one user's requests from another's."""
    service = serve(lambda talk: (talk.begin(Set_Cookie="a=b"), talk.say("hi"), talk.end())[0])
    executor = connect(service)
    ask(executor, "hi")
    ask(executor, "hi")
    assert "cookie" not in service.asked[1].fields


# -- options


def test_the_options_are_those_of_the_sdk() -> None:
    """With its own types; what a table of numbers cannot hold is left out."""
    from google.generativeai import GenerationConfig

    fields = {one.name: str(one.type) for one in dataclasses.fields(GenerationConfig)}
    left_out = {"stop_sequences", "response_mime_type", "response_schema"}
    table = {
        option.name: f"{option.kind.__name__} | None"
        for option in OPTIONS
        if option.name not in ("stop", *KINDS)
    }
    assert table == {name: kind for name, kind in fields.items() if name not in left_out}
    assert all(option.default is None for option in OPTIONS)


def test_the_reasons_are_those_of_the_sdk() -> None:
    """By number and name."""
    from google.generativeai import protos

    from backends.geminipro.response import BLOCK_REASONS, FINISH_REASONS

    known = {int(one): one.name for one in protos.Candidate.FinishReason if one}
    assert {number: name for number, name in FINISH_REASONS.items() if number} == known
    reasons = protos.GenerateContentResponse.PromptFeedback.BlockReason
    assert {int(one): one.name for one in reasons if one} == BLOCK_REASONS


def test_a_value_that_cannot_be_sent_is_refused(serve: Serve, connect: Any) -> None:
    """A bot's with a sentence, the operator's at the start."""
    service = serve(fine)
    sentence = catalog.NOT_AN_OPTION.format("max_output_tokens")
    assert ask(connect(service), "hi", llm_max_output_tokens=str(2**40)) == sentence
    assert ask(connect(service), "hi", llm_temperature="1e300").startswith("[The model's service")
    assert service.asked == []
    with pytest.raises(UsageError, match="--top_k: the service takes no such value"):
        start(GeminiproExecutor, "--top_k", 2**40)


def test_what_the_service_takes_is_sent(
    serve: Serve, connect: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond our options, from a file and from a bot; stop words add up, by both their names."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "stop_sequences: [a]\nresponse_mime_type: application/json\nlogprobs: 2\n", encoding="utf-8"
    )
    service = serve(fine)
    schema = '{"type": "OBJECT", "properties": {"k": {"type": "STRING"}}}'
    executor = connect(service, "-c", path, "--stop", "b")
    ask(executor, "hi", llm_stop="c", llm_response_schema=schema, llm_max_tokens="9")
    sent = service.asked[0].body["generationConfig"]
    assert sent["maxOutputTokens"] == 9
    assert sent["stopSequences"] == ["a", "b", "c"]
    assert sent["responseMimeType"] == "application/json"
    assert sent["responseSchema"]["properties"].keys() == {"k"}
    assert "logprobs" not in sent
    assert "without effect here: logprobs" in caplog.text
    assert "response_schema must be" in ask(executor, "hi", llm_response_schema="text")


@pytest.mark.parametrize(
    ("text", "words"),
    [("stop_words: [a]", "unknown option 'stop_words'"), ("response_schema: 1", "must be as")],
)
def test_a_file_that_cannot_be_meant_ends_the_start(
    text: str, words: str, serve: Serve, connect: Any, tmp_path: Path
) -> None:
    """In one line."""
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        connect(serve(fine), "-c", path)


def test_an_unknown_option_is_reported(
    serve: Serve, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And not sent."""
    caplog.set_level(logging.INFO)
    service = serve(fine)
    assert ask(connect(service), "hi", llm_paint="red") == "Hello, 世界!"
    assert "llm_* (5 characters)" in caplog.text
    assert "generationConfig" not in service.asked[0].body or (
        service.asked[0].body["generationConfig"] == {}
    )


def test_a_message_is_needed(connect: Any) -> None:
    """Before any key is sent."""
    with pytest.raises(AnswerError, match="No input message entered"):
        pieces(connect("http://127.0.0.1:9"), " ")


def test_the_page_names_only_options_that_there_are() -> None:
    """Of the backend, or of build.py."""
    page = (ROOT / "docs" / "geminipro.md").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "kuwa_min", "geminipro", "--help"]
    helped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"--[a-z_]+", page))
    assert named >= {f"--{option.name}" for option in OPTIONS}
    assert named - set(re.findall(r"--[a-z_]+", helped)) == {"--prune"}


# -- the SDK


@pytest.mark.slow
def test_the_sdk_is_imported_silently_and_only_when_it_is_needed() -> None:
    """Its warnings would end a strict Python; asking for help imports nothing of it."""
    look = "print('google.generativeai' in sys.modules, 'requests' in sys.modules)"
    script = f"import sys; import backends.geminipro; {look}; import backends.geminipro.client"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{script}; {look}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("False False\nTrue True\n", "")


def test_one_place_touches_the_sdk() -> None:
    """The one that its successor would replace."""
    users = [
        path.relative_to(ROOT / "backends").as_posix()
        for path in sorted((ROOT / "backends").rglob("*.py"))
        if "from google" in path.read_text(encoding="utf-8")
    ]
    assert users == ["geminipro/client.py"]


def test_pieces_are_read_in_order_however_they_are_cut(serve: Serve, connect: Any) -> None:
    """Several objects in one chunk, and one object in many."""
    whole = json.dumps([piece(f"{n} ") for n in range(20)]).encode()

    def talk(one: Handler) -> None:
        one.begin()
        one.raw(whole[:700])
        for at in range(700, len(whole)):
            one.raw(whole[at : at + 1])
        one.wfile.write(b"0\r\n\r\n")

    assert ask(connect(serve(talk)), "hi") == "".join(f"{n} " for n in range(20))
