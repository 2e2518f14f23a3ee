"""Classify the errors of Gemini, by their codes and by the words that Google uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container
from typing import Any, NamedTuple

from backends._cloud import errors
from backends._cloud.errors import (
    FIT_MARGIN,
    ContextLengthExceeded,
    ImageRejected,
    RetryableError,
    ServiceError,
    parse_retry_after,
    redact,
)
from backends._cloud.request import CompletionRequest
from backends._cloud.sentences import IMAGE_USELESS
from backends._http.transport_errors import Failure
from kuwa_min.chat import catalog

from .response import as_dict, as_list
from .transport import ErrorResponse

RETRY_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
TITLE = re.compile(r"<title>([^<]{1,200})", re.IGNORECASE)
CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Google's address is right: where it cannot be reached, this network has no way out, and another
# attempt would take as long.
FAILURES = {
    **errors.FAILURES,
    Failure.TLS: (catalog.UNREACHABLE, False),
    Failure.LOOKUP: (catalog.UNREACHABLE, False),
    Failure.CONNECT_TIMEOUT: (catalog.UNREACHABLE, False),
}
USELESS = catalog.IMAGE_NOT_READ.format(IMAGE_USELESS)


class SystemRefused(ServiceError):
    """A model that takes no system prompt."""


class ErrorDetails(NamedTuple):
    """What an error response says."""

    model: str
    code: int
    words: str  # status, reasons, fields and message; empty if Google did not write it
    cause: str  # the same for the log
    retry_after: float | None  # seconds


class Rule(NamedTuple):
    """Classify errors with one of these codes and a match of these words; the first rule counts."""

    codes: Container[int]
    words: str
    make: Callable[[ErrorDetails, re.Match[str]], ServiceError]


def classify(response: ErrorResponse, request: CompletionRequest) -> ServiceError:
    """Classify an error response, whose body is an error object, alone or in an array."""
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        body = None
    objects = [as_dict(one) for one in (body if isinstance(body, list) else [body])]
    error = as_dict(objects[0].get("error")) if objects else {}
    details = _read(error, response.status, request)
    if not details.words:
        words = _foreign_words(response.body, objects[0] if objects else {})
        details = details._replace(cause=redact(f"{details.cause}{words}", request.key.text))
    if response.redirects_to:
        base = response.redirects_to.partition("/v1")[0]
        cause = f"say --api_endpoint {base}: redirected ({details.code}) to {response.redirects_to}"
        details = details._replace(cause=cause)
    retry_after = details.retry_after or parse_retry_after(response.headers)
    return _apply_rules(details._replace(retry_after=retry_after))


def _foreign_words(body: bytes, found: dict[str, Any]) -> str:
    """Return for the log what a gateway or a proxy says: text, a page, or a part of an object."""
    text = str(body, "utf-8", "replace").strip()
    if found or not text or text[0] in "[{":  # it may quote the request
        said = [found.get(name) for name in ("error", "message", "detail")]
        text = next((one for one in said if isinstance(one, str)), "")
    elif text[0] == "<":
        title = TITLE.search(text)
        text = f"a web page: {title[1]}" if title else "a web page"
    return f", not by Google: {text}" if text else ""


def classify_object(error: dict[str, Any], request: CompletionRequest) -> ServiceError:
    """Classify an error object that came within an answer."""
    return _apply_rules(_read(error, 500, request))


def _read(error: dict[str, Any], status: int, request: CompletionRequest) -> ErrorDetails:
    details = [as_dict(one) for one in as_list(error.get("details"))]
    violations = [
        as_dict(one)
        for detail in details
        for name in ("violations", "fieldViolations")
        for one in as_list(detail.get(name))
    ]
    words = [error.get("status"), *(detail.get("reason") for detail in details)]
    words += [one.get(name) for one in violations for name in ("quotaId", "field")]
    text = " ".join(word for word in (*words, error.get("message")) if isinstance(word, str))
    code = error.get("code")
    code = code if isinstance(code, int) and 400 <= code <= 599 else status
    delays = [RETRY_DELAY.fullmatch(str(detail.get("retryDelay"))) for detail in details]
    longest = max((float(delay[1]) for delay in delays if delay), default=None)
    cause = redact(f"error {code} {text}", request.key.text)
    return ErrorDetails(request.model, code, text, cause, longest)


def _apply_rules(details: ErrorDetails) -> ServiceError:
    for rule in RULES:
        match = re.search(rule.words, details.words, re.IGNORECASE)
        if match and details.code in rule.codes:
            return rule.make(details, match)
    return ServiceError(catalog.SERVICE_REFUSED.format(details.code), details.cause)


def _context_length(details: ErrorDetails, match: re.Match[str]) -> ServiceError:
    """Read the numbers of "token count (1200000) exceeds the maximum ... (1048576)"."""
    counts = [int(number) for number in re.findall(r"\((\d{1,12})\)", match[0])]
    share = counts[1] / counts[0] * FIT_MARGIN if len(counts) == 2 and counts[0] else None
    return ContextLengthExceeded(catalog.TOO_LONG, details.cause, share=share)


def _option(details: ErrorDetails, match: re.Match[str]) -> ServiceError:
    name = CAMEL_CASE.sub("_", match[1]).lower()
    return ServiceError(catalog.NOT_AN_OPTION.format(name), details.cause)


def _fatal(sentence: str) -> Callable[[ErrorDetails, re.Match[str]], ServiceError]:
    """Return what makes an error that ends the answer; the sentence's gap is for the model."""
    return lambda details, _: ServiceError(sentence.format(details.model), details.cause)


def _retryable(sentence: str) -> Callable[[ErrorDetails, re.Match[str]], ServiceError]:
    """Return what makes an error that may pass; the sentence's gap is for the code."""
    return lambda details, _: RetryableError(
        sentence.format(details.code), details.cause, retry_after=details.retry_after
    )


def _image(sentence: str) -> Callable[[ErrorDetails, re.Match[str]], ServiceError]:
    return lambda details, _: ImageRejected(sentence.format(details.model), details.cause)


ANY, BAD_REQUEST, FAILED = range(300, 600), (400,), range(500, 600)
RULES = (
    Rule((*range(300, 400), 404, 405), r"^$", _fatal(catalog.GARBLED)),  # not Google's address
    Rule(ANY, r"API_KEY_INVALID|API key (?:not|expired)", _fatal(catalog.BAD_GOOGLE_KEY)),
    Rule((401,), r"", _fatal(catalog.BAD_GOOGLE_KEY)),
    Rule(ANY, r"location is not supported|not available in your", _fatal(catalog.NOT_OFFERED)),
    Rule((403,), r".", _fatal(catalog.FORBIDDEN)),
    Rule((404,), r"", _fatal(catalog.NO_MODEL)),
    Rule((429,), r"PerDay|limit: 0\b|billing", _fatal(catalog.QUOTA)),
    Rule((429,), r"", _retryable(catalog.BUSY)),
    Rule(BAD_REQUEST, r"billing", _fatal(catalog.QUOTA)),
    Rule(
        BAD_REQUEST,
        r"(?:developer|system).?instruction",
        lambda details, _: SystemRefused(catalog.NOT_ACCEPTED, details.cause),
    ),
    Rule(BAD_REQUEST, r"token count.*exceeds(?:.*\(\d+\))?", _context_length),
    Rule((413,), r"", _fatal(catalog.TOO_LONG)),
    Rule(BAD_REQUEST, r"image input|modality", _image(catalog.NO_IMAGES)),
    Rule(BAD_REQUEST, r"input image|image is not valid|inline_?data", _image(USELESS)),
    Rule(BAD_REQUEST, r"generation_?config\.([a-z]+(?:_[a-z]+)*)", _option),
    Rule(BAD_REQUEST, r"\b(?:has an?|the) ([a-z]+_[a-z_]+|temperature) value", _option),
    Rule((408, 504), r"", _retryable(catalog.TOO_SLOW)),
    Rule((503,), r"", _retryable(catalog.BUSY)),
    Rule(FAILED, r"", _retryable(catalog.SERVICE_FAILED)),
)
