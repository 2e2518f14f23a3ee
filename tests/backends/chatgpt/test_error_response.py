"""Errors in the shapes that services give them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.chatgpt.error_response import ErrorResponse


def read(body: Any, status: int = 400) -> ErrorResponse:
    """Return the error of a response with this body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ErrorResponse.from_response(status, data)


INNER = {"message": "no", "type": "invalid_request_error", "param": "x", "code": "bad"}
SHAPES = [  # (body, message, code)
    ({"error": INNER}, "no", "bad"),
    (INNER, "no", "bad"),
    ([{"error": INNER}], "no", "bad"),
    ({"errors": [INNER]}, "no", "bad"),
    ({"error": {**INNER, "code": None}}, "no", "invalid_request_error"),
    ({"error": {**INNER, "code": 400}}, "no", "invalid_request_error"),
    ({"object": "error", "message": "no", "code": 400}, "no", "400"),
    ({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}, "no",
     "BadRequestError"),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, "no",
     "overloaded_error"),
    ([{"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}], "no",
     "RESOURCE_EXHAUSTED"),
    ({"error": "no"}, "no", ""),
    ({"error": "no", "error_type": "validation"}, "no", "validation"),
    ({"text": "no", "error_code": 50001}, "no", "50001"),
    ({"object": "error", "message": "no", "code": 40303}, "no", "context_length_exceeded"),
    ({"detail": "no"}, "no", ""),
    ({"detail": {"error": INNER}}, "no", ""),
    ({"detail": [{"loc": ["body", "n"], "msg": "no", "input": "words of the chat"}]},
     "body.n: no", ""),
    ({"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error",
                "n_prompt_tokens": 14429, "n_ctx": 8192}},
     "too long; n_prompt_tokens 14429, n_ctx 8192", "exceed_context_size_error"),
    ({"error": {"message": "Provider returned error", "code": 400,
                "metadata": {"raw": '{"error": {"message": "no"}}'}}},
     "Provider returned error; no", "400"),
    ({"error": {"message": "Provider returned error", "metadata": {"raw": "no"}}},
     "Provider returned error; no", ""),
    (b"\xef\xbb\xbf" + json.dumps({"error": INNER}).encode(), "no", "bad"),
    (json.dumps({"error": INNER}).encode("utf-16"), "no", "bad"),
    (b"data: " + json.dumps({"error": INNER}).encode() + b"\n\ndata: [DONE]\n\n", "no", "bad"),
    (b"no", "no", ""),
    (b"<html>no</html>", "", ""),
    (b"", "", ""),
    (b"[" * 100_000, "[" * 100_000, ""),
    ({"error": {"message": 5, "code": ["x"], "param": None}}, "", ""),
    ({"error": []}, "", ""),
    ({}, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message", "code"), SHAPES)
def test_an_error_is_read_in_every_shape(body: Any, message: str, code: str) -> None:
    """The status of the response counts; a page says nothing."""
    found = read(body, 418)
    assert (found.status, found.message, found.code) == (418, message, code)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "no", "code": 429}}, 429),
        ({"error": {"message": "no", "code": "503"}}, 503),
        ({"error": {"message": "no", "status": 404}}, 404),
        ({"error": {"message": "no", "code": "invalid_api_key"}}, 401),
        ({"error": {"message": "no", "type": "authentication_error"}}, 401),
        ({"error": {"message": "no", "code": "model_not_found"}}, 404),
        ({"error": {"message": "no", "code": "rate_limit_exceeded"}}, 429),
        ({"error": {"message": "no", "type": "overloaded_error"}}, 503),
        ({"error": {"message": "no", "type": "BadRequestError"}}, 400),
        ({"error": "no", "error_type": "validation"}, 400),
        ({"text": "no", "error_code": 50001}, 500),
        ({"text": "no", "error_code": 40303}, 400),
        ({"text": "no", "error_code": 42903}, 429),
        ({"object": "error", "message": "no", "code": 400}, 400),
        ({"error": {"message": "no", "code": 7}}, 500),
        ({"error": {"message": "no", "code": True}}, 500),
        ("no", 500),
        (None, 500),
    ],
)
def test_an_error_within_an_answer_names_its_status(body: Any, status: int) -> None:
    """By a number or by words; else the service failed."""
    assert ErrorResponse.from_event(body).status == status


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Please try again in 20s.", 20),
        ("Please try again in 1m2.5s.", 62.5),
        ("Please try again in 350ms.", 0.35),
        ("Please retry after 2 seconds.", 2),
        ("Please retry in 3.75s.", 3.75),
        ("Please try again.", None),
        ("Please try again in a moment.", None),
    ],
)
def test_a_wait_may_stand_in_the_words(words: str, seconds: float | None) -> None:
    """Where the head has none."""
    body = json.dumps({"error": {"message": words}}).encode()
    assert ErrorResponse.from_response(429, body).retry_after == seconds
    assert ErrorResponse.from_response(429, body, 1).retry_after == 1
