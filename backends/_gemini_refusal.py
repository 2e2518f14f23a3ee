"""Make of what Gemini says instead of an answer a sentence for people, a cause for the log."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container
from typing import Any, NamedTuple

from kuwa_min import sentences

from ._gemini_answer import as_dict, as_list
from ._gemini_session import Refused
from ._refusal import FAILURES as COMMON_FAILURES
from ._refusal import ContextFull, ImageRefused, Passing, Refusal, asked_to_wait, clean
from ._transport_errors import Failure

SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
FITTING = 0.95  # of a chat that is said to fit: our count is a guess
# Google's address is right: where it cannot be reached, this network has no way out, and another
# attempt would take as long.
FAILURES = {
    **COMMON_FAILURES,
    **dict.fromkeys(
        (Failure.TLS, Failure.LOOKUP, Failure.CONNECT_TIMEOUT), (sentences.UNREACHABLE, False)
    ),
}
USELESS = sentences.IMAGE_NOT_READ.format("the model's service cannot make anything of it")


class Fault(NamedTuple):
    """What the service says of a request that it does not answer."""

    model: str
    code: int
    words: str  # status, reasons, fields and message; empty if this is not how Google speaks
    cause: str  # the same for the log
    after: float | None  # seconds to wait before another try


class Rule(NamedTuple):
    """What a fault means if its code is one of these and its words hold this; the first counts."""

    codes: Container[int]
    words: str
    refusal: Callable[[Fault, re.Match[str]], Refusal]


def explain(answer: Refused, *, model: str, key: str) -> Refusal:
    """Return what an answer means that is none."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    objects = [as_dict(one) for one in (found if isinstance(found, list) else [found])]
    error = as_dict(objects[0].get("error")) if objects else {}
    fault = _fault(error, answer.status, model=model, key=key)
    return _judge(fault._replace(after=fault.after or asked_to_wait(answer.headers)))


def explain_error(error: dict[str, Any], *, model: str, key: str) -> Refusal:
    """Return what an error means that comes as an object of an answer."""
    return _judge(_fault(error, 500, model=model, key=key))


def _fault(error: dict[str, Any], status: int, *, model: str, key: str) -> Fault:
    details = [as_dict(one) for one in as_list(error.get("details"))]
    inner = [
        as_dict(one)
        for detail in details
        for name in ("violations", "fieldViolations")
        for one in as_list(detail.get(name))
    ]
    words = [error.get("status"), *(detail.get("reason") for detail in details)]
    words += [one.get(name) for one in inner for name in ("quotaId", "field")]
    text = " ".join(word for word in (*words, error.get("message")) if isinstance(word, str))
    code = error.get("code")
    code = code if isinstance(code, int) and 400 <= code <= 599 else status
    delays = [SECONDS.fullmatch(str(detail.get("retryDelay"))) for detail in details]
    after = max((float(delay[1]) for delay in delays if delay), default=None)
    return Fault(model, code, text, clean(f"error {code} {text}", key), after)


def _judge(fault: Fault) -> Refusal:
    for rule in RULES:
        match = re.search(rule.words, fault.words, re.IGNORECASE)
        if match and fault.code in rule.codes:
            return rule.refusal(fault, match)
    return Refusal(sentences.SERVICE_REFUSED.format(fault.code), fault.cause)


def _context_full(fault: Fault, match: re.Match[str]) -> Refusal:
    """Take the numbers out of "token count (1200000) exceeds the maximum ... (1048576)"."""
    counts = [int(number) for number in re.findall(r"\((\d{1,12})\)", match[0])]
    share = counts[1] / counts[0] * FITTING if len(counts) == 2 and counts[0] else None
    return ContextFull(sentences.TOO_LONG, fault.cause, share=share)


def _option(fault: Fault, match: re.Match[str]) -> Refusal:
    name = CAMEL.sub("_", match[1]).lower()
    return Refusal(sentences.NOT_AN_OPTION.format(name), fault.cause)


def _says(sentence: str) -> Callable[[Fault, re.Match[str]], Refusal]:
    """Return what ends an answer with this sentence, the model's name in its gap."""
    return lambda fault, _: Refusal(sentence.format(fault.model), fault.cause)


def _passes(sentence: str) -> Callable[[Fault, re.Match[str]], Refusal]:
    """Return what says this, the code in its gap, unless the service answers the next time."""
    return lambda fault, _: Passing(sentence.format(fault.code), fault.cause, after=fault.after)


def _image(sentence: str) -> Callable[[Fault, re.Match[str]], Refusal]:
    return lambda fault, _: ImageRefused(sentence.format(fault.model), fault.cause)


ANY, BAD_REQUEST, FAILED = range(300, 600), (400,), range(500, 600)
RULES = (
    Rule((*range(300, 400), 404, 405), r"^$", _says(sentences.GARBLED)),  # not Google's address
    Rule(ANY, r"API_KEY_INVALID|API key (?:not|expired)", _says(sentences.BAD_GOOGLE_KEY)),
    Rule((401,), r"", _says(sentences.BAD_GOOGLE_KEY)),
    Rule(ANY, r"location is not supported|not available in your", _says(sentences.NOT_OFFERED)),
    Rule((403,), r".", _says(sentences.FORBIDDEN)),
    Rule((404,), r"", _says(sentences.NO_MODEL)),
    Rule((429,), r"PerDay|limit: 0\b|billing", _says(sentences.QUOTA)),
    Rule((429,), r"", _passes(sentences.BUSY)),
    Rule(BAD_REQUEST, r"billing", _says(sentences.QUOTA)),
    Rule(BAD_REQUEST, r"token count.*exceeds(?:.*\(\d+\))?", _context_full),
    Rule((413,), r"", _says(sentences.TOO_LONG)),
    Rule(BAD_REQUEST, r"image input|modality", _image(sentences.NO_IMAGES)),
    Rule(BAD_REQUEST, r"input image|image is not valid|inline_?data", _image(USELESS)),
    Rule(BAD_REQUEST, r"generation_?config\.([a-z]+(?:_[a-z]+)*)", _option),
    Rule(BAD_REQUEST, r"\b(?:has an?|the) ([a-z]+_[a-z_]+|temperature) value", _option),
    Rule((408, 504), r"", _passes(sentences.TOO_SLOW)),
    Rule((503,), r"", _passes(sentences.BUSY)),
    Rule(FAILED, r"", _passes(sentences.SERVICE_FAILED)),
)
