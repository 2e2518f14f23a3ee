"""Classify the errors of services that speak OpenAI's protocol. Knows their words, not the SDK.

Services agree on status codes, less on error codes, and not at all on messages: those are searched
for what several of them have in common. What the user reads never quotes a service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from backends._cloud.api_key import THIRD_PARTY, Key
from backends._cloud.errors import (
    FIT_MARGIN,
    ContextLengthExceeded,
    ImageRejected,
    RetryableError,
    ServiceError,
    redact,
)
from backends._cloud.request import CompletionRequest
from kuwa_min.chat import catalog
from kuwa_min.chat.sentence import Sentence

SHORTEST_EXCERPT, LONGEST_EXCERPT = 8, 24  # characters by which a quote of the chat is found

CONTEXT_LENGTH = re.compile(
    r"context.{0,20}(length|window|size)|maximum (context|model) length|too many (input )?tokens"
    r"|(prompt|input|request)s?\b.{0,40}(too (long|large)|longer than|exceeds?\b)"
    r"|reduce the length|must (be <=|have less than) \d+|too large for model",
    re.IGNORECASE | re.DOTALL,
)
CONTEXT_LENGTH_CODES = ("context_length_exceeded", "exceed_context_size_error")
# About the option alone, whatever the prompt's length.
MAX_TOKENS = re.compile(r"max_(completion_|new_)?tokens\b.{0,40}too large", re.IGNORECASE)
TOKEN_COUNT = re.compile(r"(?<![\w-])\d{3,}(?![\w-])")  # and no part of a model's name
IMAGE = re.compile(
    r"image|multi-?modal|vision|content.{0,60}\bstring\b|\bmmproj\b", re.IGNORECASE | re.DOTALL
)
MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)
POLICY = re.compile(r"content.?(filter|policy|management)|ResponsibleAI|moderation|safety", re.I)
QUOTA = re.compile(r"quota|billing|credit|balance|payment", re.IGNORECASE)
COUNTRY = re.compile(r"country|region|territory", re.IGNORECASE)


class ErrorResponse(Exception):
    """An error of the service: a status from 400 on, or an error object within an answer."""

    def __init__(
        self,
        status: int,
        message: str = "",
        *,
        code: str = "",
        param: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message or str(status))
        self.status, self.message = status, message
        self.code, self.param, self.retry_after = code, param, retry_after

    @classmethod
    def from_response(
        cls, status: int, body: object, retry_after: float | None = None
    ) -> ErrorResponse:
        """Read the JSON that came with a status; body: text if it was no JSON."""
        message, code, param = _ErrorBody.of(body)
        return cls(status, message, code=code, param=param, retry_after=retry_after)

    @classmethod
    def from_event(cls, body: object) -> ErrorResponse:
        """Read what came within an answer that began with status 200; its code may be a status."""
        message, code, param = _ErrorBody.of(body)
        status = int(code) if re.fullmatch(r"[45]\d\d", code) else 500
        return cls(status, message, code=code, param=param)


class _ErrorBody(NamedTuple):
    """What the body of an error says."""

    message: str
    code: str
    param: str

    @classmethod
    def of(cls, body: object) -> _ErrorBody:
        if isinstance(body, str):
            return cls("" if body.lstrip().startswith("<") else body, "", "")
        if not isinstance(body, Mapping):
            return cls("", "", "")
        inner = body.get("error")
        if isinstance(inner, Mapping):
            return cls.of(inner)
        message = body.get("message") or (inner if isinstance(inner, str) else "")
        detail = body.get("detail")
        code = body.get("code") or body.get("type") or body.get("error_type") or ""
        param = body.get("param") or ""
        return cls(str(message or _detail(detail)), str(code), str(param))


def _detail(detail: object) -> str:
    """Return FastAPI's `detail`, without the parts of the request that it quotes."""
    if not isinstance(detail, list):
        return detail if isinstance(detail, str) else ""
    found = [one for one in detail if isinstance(one, Mapping)]
    return "; ".join(f"{_location(one.get('loc'))}: {one.get('msg')}" for one in found[:3])


def _location(path: Any) -> str:
    return ".".join(map(str, path)) if isinstance(path, list) else "?"


def classify(error: ErrorResponse, request: CompletionRequest) -> ServiceError:
    """Classify an error response by the first of RULES that applies."""
    cause = _cause(error, request)
    for applies, make in RULES:
        if applies(error, request):
            return make(error, request, cause)
    return ServiceError(catalog.SERVICE_REFUSED.format(error.status), cause)


def _cause(error: ErrorResponse, request: CompletionRequest) -> str:
    """Return an error for the log, without words that may quote the chat."""
    words = error.message
    if any(excerpt in words for excerpt in _excerpts(request)):
        words = "(its words quote the chat)"
    owner = f", to the key of the {request.key.owner}" if error.status in (401, 403) else ""
    code = f" ({error.code})" if error.code and error.code != str(error.status) else ""
    status = f"the service answers {error.status}{code}{owner}"
    return redact(f"{status}: {words or 'without a word'}", request.key.text)


def _excerpts(request: CompletionRequest) -> list[str]:
    """Return the beginnings of the messages; shorter ones would be found in any text."""
    texts = [one["content"].strip()[:LONGEST_EXCERPT] for one in request.messages]
    return [text for text in texts if len(text) >= SHORTEST_EXCERPT]


def bad_key_sentence(key: Key) -> Sentence:
    """Return the sentence on a key that cannot be used, by the field that it came from."""
    is_third_party = key.owner == THIRD_PARTY
    return catalog.BAD_THIRD_PARTY_KEY if is_third_party else catalog.BAD_OPENAI_KEY


# -- conditions and results of the rules


def _is_context_length(error: ErrorResponse, _: CompletionRequest) -> bool:
    if error.status == 413 or error.code in CONTEXT_LENGTH_CODES:
        return True
    if MAX_TOKENS.search(error.message):
        return False
    return error.status in (400, 422, 429, 500) and bool(CONTEXT_LENGTH.search(error.message))


def _context_length(error: ErrorResponse, _: CompletionRequest, cause: str) -> ServiceError:
    """Tell which share of the prompt fits, if the message has both token counts."""
    counts = sorted({int(one) for one in TOKEN_COUNT.findall(error.message)})
    share = counts[0] / counts[-1] * FIT_MARGIN if len(counts) > 1 else None
    return ContextLengthExceeded(catalog.TOO_LONG, cause, share=share)


def _is_image(error: ErrorResponse, request: CompletionRequest) -> bool:
    return bool(request.files) and error.status < 503 and bool(IMAGE.search(error.message))


def _bad_key(_: ErrorResponse, request: CompletionRequest, cause: str) -> ServiceError:
    return ServiceError(bad_key_sentence(request.key), cause)


def _no_model(error: ErrorResponse, request: CompletionRequest, cause: str) -> ServiceError:
    if error.code == "model_not_found" or MODEL.search(error.message):
        return ServiceError(catalog.NO_MODEL.format(request.model), cause)
    return ServiceError(catalog.GARBLED, cause)


def _option(error: ErrorResponse, request: CompletionRequest) -> str:
    """Return the name of the option that a service does not accept; empty if it names none."""
    set_options = [name for name, value in request.options.items() if value is not None]
    named = [name for name in set_options if re.search(rf"\b{name}\b", error.message)]
    return error.param if error.param in set_options else "".join(named[:1])


RULES = (  # (condition, result), in this order
    (lambda error, _: error.status == 401, _bad_key),
    (
        lambda error, _: error.status == 403 and COUNTRY.search(error.code),
        lambda _, __, cause: ServiceError(catalog.NOT_OFFERED, cause),
    ),
    (
        lambda error, _: error.status == 403,
        lambda _, request, cause: ServiceError(catalog.FORBIDDEN.format(request.model), cause),
    ),
    (_is_context_length, _context_length),
    (
        _is_image,
        lambda _, request, cause: ImageRejected(catalog.NO_IMAGES.format(request.model), cause),
    ),
    (
        lambda error, _: error.status < 500 and POLICY.search(error.code),
        lambda _, __, cause: ServiceError(catalog.NOT_ALLOWED, cause),
    ),
    (lambda error, _: error.status == 404 or error.code == "model_not_found", _no_model),
    (
        lambda error, _: error.status == 402 or (error.status == 429 and QUOTA.search(error.code)),
        lambda _, __, cause: ServiceError(catalog.QUOTA, cause),
    ),
    (
        lambda error, _: error.status == 429,
        lambda error, _, cause: RetryableError(catalog.BUSY, cause, retry_after=error.retry_after),
    ),
    (
        lambda error, _: error.status in (408, 409, 425) or error.status >= 500,
        lambda error, _, cause: RetryableError(
            catalog.SERVICE_FAILED.format(error.status), cause, retry_after=error.retry_after
        ),
    ),
    (
        lambda error, request: error.status < 500 and _option(error, request),
        lambda error, request, cause: ServiceError(
            catalog.NOT_AN_OPTION.format(_option(error, request)), cause
        ),
    ),
)
