"""Make sentences of what services of OpenAI's kind refuse. Knows their words, not the SDK.

Services agree on status codes, less on codes, and not at all on messages: those are searched for
what several of them say alike. What is shown to the person never quotes a service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kuwa_min import sentences

from . import _api_key
from ._cloud_executor import Question
from ._refusal import ContextFull, ImageRefused, Passing, Refusal, clean

MARGIN = 0.95  # of the tokens that fit: ours are a guess
LEAST_QUOTE = 8  # characters; shorter texts of people are found everywhere
LONGEST_QUOTE = 24

TOO_LONG = re.compile(
    r"context.{0,20}(length|window|size)|maximum (context|model) length|too many (input )?tokens"
    r"|(prompt|input|request)s?\b.{0,40}(too (long|large)|longer than|exceeds?\b)"
    r"|reduce the length|must (be <=|have less than) \d+|too large for model",
    re.IGNORECASE | re.DOTALL,
)
FULL_CODES = ("context_length_exceeded", "exceed_context_size_error")
NO_ROOM = re.compile(r"max_(completion_|new_)?tokens\b.{0,40}too large", re.IGNORECASE)  # an option
NUMBER = re.compile(r"(?<![\w-])\d{3,}(?![\w-])")  # of tokens, not of a model's name
IMAGE = re.compile(
    r"image|multi-?modal|vision|content.{0,60}\bstring\b|\bmmproj\b", re.IGNORECASE | re.DOTALL
)
MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)
RULES = re.compile(r"content.?(filter|policy|management)|ResponsibleAI|moderation|safety", re.I)
QUOTA = re.compile(r"quota|billing|credit|balance|payment", re.IGNORECASE)
COUNTRY = re.compile(r"country|region|territory", re.IGNORECASE)

BAD_KEY = {
    _api_key.THIRD_PARTY: sentences.BAD_THIRD_PARTY_KEY,
}


class Problem(Exception):
    """An error of the service: a status from 400 on, or an object in the middle of an answer."""

    def __init__(
        self,
        status: int,
        message: str = "",
        *,
        code: str = "",
        param: str = "",
        after: float | None = None,
    ) -> None:
        super().__init__(message or str(status))
        self.status, self.message = status, message
        self.code, self.param, self.after = code, param, after

    @classmethod
    def of_answer(cls, status: int, body: object, after: float | None = None) -> Problem:
        """Take a status and the JSON that came with it apart; body is text if it was none."""
        said = _Said.of(body)
        return cls(status, said.message, code=said.code, param=said.param, after=after)

    @classmethod
    def of_object(cls, body: object) -> Problem:
        """Take apart what a service sent in the middle of an answer that began with 200."""
        said = _Said.of(body)
        number = int(said.code) if re.fullmatch(r"[45]\d\d", said.code) else 500
        return cls(number, said.message, code=said.code, param=said.param)


class _Said(NamedTuple):
    """What a service says in an error's body."""

    message: str
    code: str
    param: str

    @classmethod
    def of(cls, body: object) -> _Said:
        if isinstance(body, str):
            return cls("" if body.lstrip().startswith("<") else body, "", "")
        if not isinstance(body, Mapping):
            return cls("", "", "")
        inner = body.get("error")
        if isinstance(inner, Mapping):
            return cls.of(inner)
        message = body.get("message") or (inner if isinstance(inner, str) else "")
        details = body.get("detail")
        code = body.get("code") or body.get("type") or body.get("error_type") or ""
        param = body.get("param") or ""
        return cls(str(message or _detail(details)), str(code), str(param))


def _detail(details: object) -> str:
    """Return what FastAPI says of a request, without the request's own content."""
    if not isinstance(details, list):
        return details if isinstance(details, str) else ""
    found = [one for one in details if isinstance(one, Mapping)]
    return "; ".join(f"{_place(one.get('loc'))}: {one.get('msg')}" for one in found[:3])


def _place(location: Any) -> str:
    return ".".join(map(str, location)) if isinstance(location, list) else "?"


def understand(problem: Problem, question: Question) -> Refusal:
    """Return what becomes of a problem: a sentence for the person, a cause for the log."""
    cause = _cause(problem, question)
    for applies, make in RULES_IN_ORDER:
        if applies(problem, question):
            return make(problem, question, cause)
    return Refusal(sentences.SERVICE_REFUSED.format(problem.status), cause)


def _cause(problem: Problem, question: Question) -> str:
    """Return what the log says of a problem; a service may quote what a person wrote."""
    words = problem.message
    if any(quote in words for quote in _quotes(question)):
        words = "(its words quote the chat)"
    whose = f", to the key of the {question.key.owner}" if problem.status in (401, 403) else ""
    code = f" ({problem.code})" if problem.code and problem.code != str(problem.status) else ""
    status = f"the service answers {problem.status}{code}{whose}"
    return clean(f"{status}: {words or 'without a word'}", question.key.text)


def _quotes(question: Question) -> list[str]:
    texts = [one["content"].strip()[:LONGEST_QUOTE] for one in question.messages]
    return [text for text in texts if len(text) >= LEAST_QUOTE]


# -- the rules: which problems they are for, and what they make of them


def _is_too_long(problem: Problem, _: Question) -> bool:
    if problem.status == 413 or problem.code in FULL_CODES:
        return True
    if NO_ROOM.search(problem.message):
        return False
    return problem.status in (400, 422, 429, 500) and bool(TOO_LONG.search(problem.message))


def _too_long(problem: Problem, _: Question, cause: str) -> Refusal:
    numbers = sorted({int(one) for one in NUMBER.findall(problem.message)})
    share = numbers[0] / numbers[-1] * MARGIN if len(numbers) > 1 else None
    return ContextFull(sentences.TOO_LONG, cause, share=share)


def _is_about_the_image(problem: Problem, question: Question) -> bool:
    return bool(question.files) and problem.status < 503 and bool(IMAGE.search(problem.message))


def _bad_key(_: Problem, question: Question, cause: str) -> Refusal:
    return Refusal(BAD_KEY.get(question.key.owner, sentences.BAD_OPENAI_KEY), cause)


def _no_model(problem: Problem, question: Question, cause: str) -> Refusal:
    if problem.code == "model_not_found" or MODEL.search(problem.message):
        return Refusal(sentences.NO_MODEL.format(question.model), cause)
    return Refusal(sentences.GARBLED, cause)


def _option(problem: Problem, question: Question) -> str:
    """Return the option that a service does not accept, if it says so."""
    set_ones = [name for name, value in question.options.items() if value is not None]
    named = [name for name in set_ones if re.search(rf"\b{name}\b", problem.message)]
    return problem.param if problem.param in set_ones else "".join(named[:1])


RULES_IN_ORDER = (
    (lambda problem, _: problem.status == 401, _bad_key),
    (
        lambda problem, _: problem.status == 403 and COUNTRY.search(problem.code),
        lambda _, __, cause: Refusal(sentences.NOT_OFFERED, cause),
    ),
    (
        lambda problem, _: problem.status == 403,
        lambda _, question, cause: Refusal(sentences.FORBIDDEN.format(question.model), cause),
    ),
    (_is_too_long, _too_long),
    (
        _is_about_the_image,
        lambda _, question, cause: ImageRefused(sentences.NO_IMAGES.format(question.model), cause),
    ),
    (
        lambda problem, _: problem.status < 500 and RULES.search(problem.code),
        lambda _, __, cause: Refusal(sentences.NOT_ALLOWED, cause),
    ),
    (lambda problem, _: problem.status == 404 or problem.code == "model_not_found", _no_model),
    (
        lambda problem, _: (
            problem.status == 402 or (problem.status == 429 and QUOTA.search(problem.code))
        ),
        lambda _, __, cause: Refusal(sentences.QUOTA, cause),
    ),
    (
        lambda problem, _: problem.status == 429,
        lambda problem, _, cause: Passing(sentences.BUSY, cause, after=problem.after),
    ),
    (
        lambda problem, _: problem.status in (408, 409, 425) or problem.status >= 500,
        lambda problem, _, cause: Passing(
            sentences.SERVICE_FAILED.format(problem.status), cause, after=problem.after
        ),
    ),
    (
        lambda problem, question: problem.status < 500 and _option(problem, question),
        lambda problem, question, cause: Refusal(
            sentences.NOT_AN_OPTION.format(_option(problem, question)), cause
        ),
    ),
)
