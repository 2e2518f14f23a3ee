"""What Google's errors mean, in its own words, and what is no error of Google's."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("google.generativeai", reason="geminipro needs google-generativeai")

from backends._cloud.api_key import OPERATOR, Key
from backends._cloud.errors import (
    FIT_MARGIN,
    ContextLengthExceeded,
    ImageRejected,
    RetryableError,
    ServiceError,
)
from backends._cloud.request import CompletionRequest
from backends.geminipro import errors
from backends.geminipro.transport import ErrorResponse
from kuwa_min.chat import catalog
from kuwa_min.chat.prompt import Prompt
from tests.fakes.gemini.refuses import PER_DAY, QUOTA, RETRY, error

REQUEST = CompletionRequest("m", Prompt("", [], []), [], {}, {}, Key("a-secret-key", OPERATOR))


def explain(status: int, body: Any, **fields: str) -> ServiceError:
    """Classify an error response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return errors.classify(ErrorResponse(status, named, data), REQUEST)


@pytest.mark.parametrize(
    ("code", "message", "sentence", "kind"),
    [
        (400, "API key not valid. Please pass one.", catalog.BAD_GOOGLE_KEY, ServiceError),
        (400, "API key expired. Please renew it.", catalog.BAD_GOOGLE_KEY, ServiceError),
        (400, "Gemini is not available in your country.", catalog.NOT_OFFERED, ServiceError),
        (400, "Please enable billing on the project.", catalog.QUOTA, ServiceError),
        (429, "Quota exceeded for metric: x, limit: 0", catalog.QUOTA, ServiceError),
        (429, "Quota exceeded for metric: x, limit: 10", catalog.BUSY, RetryableError),
        (413, "Request payload size exceeds the limit", catalog.TOO_LONG, ServiceError),
        (400, "Unable to process input image.", errors.USELESS, ImageRejected),
        (400, "Provided image is not valid.", errors.USELESS, ImageRejected),
        (
            400,
            "Image input modality is not enabled",
            catalog.NO_IMAGES.format("m"),
            ImageRejected,
        ),
        (
            400,
            "it has a temperature value of 3.0 but the range is up to 2",
            catalog.NOT_AN_OPTION.format("temperature"),
            ServiceError,
        ),
        (
            400,
            "Invalid value at 'generationConfig.topP'",
            catalog.NOT_AN_OPTION.format("top_p"),
            ServiceError,
        ),
        (408, "x", catalog.TOO_SLOW, RetryableError),
        (504, "x", catalog.TOO_SLOW, RetryableError),
        (503, "x", catalog.BUSY, RetryableError),
        (502, "x", catalog.SERVICE_FAILED.format(502), RetryableError),
        (418, "x", catalog.SERVICE_REFUSED.format(418), ServiceError),
    ],
)
def test_an_error_has_its_sentence(
    code: int, message: str, sentence: str, kind: type[ServiceError]
) -> None:
    """As an object alone or in an array; the code of the object counts."""
    wrapped = {"error": error(code, "STATUS", message)}
    for body in (wrapped, [wrapped]):
        found = explain(500, body)
        assert (found.sentence, type(found)) == (sentence, kind)
        assert str(found) == f"error {code} STATUS {message}"


def test_a_chat_that_is_too_long_says_what_would_fit() -> None:
    """If the message has both numbers."""
    message = "The input token count (2000) exceeds the maximum number of tokens allowed (1000)."
    found = explain(400, {"error": error(400, "INVALID_ARGUMENT", message)})
    assert isinstance(found, ContextLengthExceeded)
    assert found.share == pytest.approx(0.5 * FIT_MARGIN)
    found = explain(400, {"error": {"message": "The input token count exceeds the maximum."}})
    assert isinstance(found, ContextLengthExceeded)
    assert found.share is None


def test_a_wait_is_what_google_asks_for() -> None:
    """The longest in the details, else that of the head."""
    delays = [{"@type": RETRY, "retryDelay": text} for text in ("3s", "7.5s", "soon", 9)]
    found = explain(429, {"error": error(429, "X", "x", *delays)}, retry_after="1")
    assert isinstance(found, RetryableError)
    assert found.retry_after == 7.5
    found = explain(503, b"", retry_after="4")
    assert isinstance(found, RetryableError)
    assert found.retry_after == 4


def test_a_quota_of_the_day_is_not_waited_for() -> None:
    """Whatever delay it names."""
    details = [{"@type": QUOTA, "violations": [{"quotaId": PER_DAY}]}, {"retryDelay": "1s"}]
    assert explain(429, {"error": error(429, "X", "x", *details)}).sentence == catalog.QUOTA


@pytest.mark.parametrize("status", [301, 302, 404, 405])
@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"[" * 100_000, [5], {"error": 5}])
def test_what_does_not_speak_as_google_is_at_a_wrong_address(status: int, body: Any) -> None:
    """The user reads that the address should be looked at."""
    assert explain(status, body).sentence == catalog.GARBLED


def test_an_error_that_is_odd_is_read_as_far_as_it_goes() -> None:
    """Whatever types its values have."""
    odd = {"code": "400", "status": 5, "message": ["x"], "details": [5, {"violations": 5}]}
    assert explain(503, {"error": odd}).sentence == catalog.BUSY
    assert explain(503, {"error": {"code": 200}}).sentence == catalog.BUSY


def test_the_log_gets_no_key_of_a_refusal() -> None:
    """Even where the service repeats it."""
    body = {"error": error(403, "DENIED", "a-secret-key and AIzaSyA1234567890abcdef may not\nx")}
    found = explain(403, body)
    assert str(found) == "error 403 DENIED *** and *** may not x"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"access denied by a-secret-key's policy", "error 400, not by Google: access denied by"),
        (
            b"<html><TITLE>502 Bad\nGateway</title> x",
            "error 400, not by Google: a web page: 502 Bad",
        ),
        (b"<html>x", "error 400, not by Google: a web page"),
        ({"error": "no such route"}, "error 400, not by Google: no such route"),
        ([{"detail": "Not Found"}], "error 400, not by Google: Not Found"),
        ({"detail": [{"input": "what people write"}]}, "error 400"),
        (b"[{broken", "error 400"),
        (b"", "error 400"),
    ],
)
def test_what_others_than_google_say_is_in_the_log(body: Any, said: str) -> None:
    """As a gateway's operator needs it; without the key and what it quotes of the request."""
    cause = str(explain(400, body))
    assert cause.startswith(said)
    assert (cause == said) == (len(said) < 15 or said.endswith(("page", "route", "Found")))
    assert "secret" not in cause
