"""Classify the errors of services that speak OpenAI's protocol. Knows their words, not the SDK.

Services agree on status codes, less on error codes, and not at all on messages: those are searched
for what several of them have in common. What the user reads never quotes a service.
"""

from __future__ import annotations

import re

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

from .context_length import fitting_share, is_too_long
from .error_response import ErrorResponse
from .structured import FIELDS

SHORTEST_EXCERPT, LONGEST_EXCERPT = 8, 24  # characters by which a quote of the chat is found

IMAGE = re.compile(
    r"image|multi-?modal|vision|content.{0,60}\bstring\b|\bmmproj\b", re.IGNORECASE | re.DOTALL
)
MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)
POLICY = re.compile(r"content.?(filter|policy|management)|ResponsibleAI|moderation|safety", re.I)
QUOTA = re.compile(r"quota|billing|credit|balance|payment", re.IGNORECASE)
COUNTRY = re.compile(r"country|region|territory", re.IGNORECASE)
BAD_KEY = re.compile(
    r"api.?key.{0,20}(not valid|invalid|expired)|(invalid|incorrect).{0,20}api.?key", re.IGNORECASE
)
# What chat templates, and services that have none, say of the roles in a chat.
ROLES = re.compile(
    r"system (role|message|prompt|instruction)|developer instruction|\brole.{0,24}\bsystem\b"
    r"|roles?\b.{0,40}\balternat|roles? are supported|successive user|valid role"
    r"|\btemplate\b|TemplateError|jinja"
    r"|messages\W{0,2}0\W{1,3}role|(start|begin)s? with a user|first message",
    re.IGNORECASE | re.DOTALL,
)
ANSWER_LENGTHS = ("max_completion_tokens", "max_tokens")  # options


def classify(error: ErrorResponse, request: CompletionRequest) -> ServiceError:
    """Classify an error response by the first of RULES that applies."""
    cause = _cause(error, request)
    error = without_quote(error, request)
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


def without_quote(error: ErrorResponse, request: CompletionRequest) -> ErrorResponse:
    """Return an error with its words up to where they quote the chat, which are no service's."""
    places = [error.message.find(excerpt) for excerpt in _excerpts(request)]
    end = min((one for one in places if one >= 0), default=None)
    return ErrorResponse(
        error.status,
        error.message[:end],
        code=error.code,
        param=error.param,
        retry_after=error.retry_after,
    )


def _excerpts(request: CompletionRequest) -> list[str]:
    """Return the beginnings of the messages; shorter ones would be found in any text."""
    texts = [one["content"].strip()[:LONGEST_EXCERPT] for one in request.messages]
    return [text for text in texts if len(text) >= SHORTEST_EXCERPT]


def bad_key_sentence(key: Key) -> Sentence:
    """Return the sentence on a key that cannot be used, by the field that it came from."""
    is_third_party = key.owner == THIRD_PARTY
    return catalog.BAD_THIRD_PARTY_KEY if is_third_party else catalog.BAD_OPENAI_KEY


def refuses_roles(error: ErrorResponse) -> bool:
    """Tell whether the model's chat template, or the service, refuses the roles of a chat."""
    return error.status not in (404, 429) and ROLES.search(error.message) is not None


# -- conditions and results of the rules


def _is_context_length(error: ErrorResponse, request: CompletionRequest) -> bool:
    if error.param not in ANSWER_LENGTHS and request.options.get(error.param) is not None:
        return False  # it is that option which is too long
    return is_too_long(error.status, error.code, error.message)


def _context_length(error: ErrorResponse, request: CompletionRequest, cause: str) -> ServiceError:
    """Tell which share of the prompt fits, or which option takes the whole window."""
    share = fitting_share(error.message)
    asked = [name for name in ANSWER_LENGTHS if request.options.get(name) is not None]
    if share == 0 and asked:
        return ServiceError(catalog.NOT_AN_OPTION.format(asked[0]), cause)
    return ContextLengthExceeded(catalog.TOO_LONG, cause, share=share and share * FIT_MARGIN)


def _is_image(error: ErrorResponse, request: CompletionRequest) -> bool:
    return bool(request.files) and error.status < 503 and bool(IMAGE.search(error.message))


def _bad_key(_: ErrorResponse, request: CompletionRequest, cause: str) -> ServiceError:
    return ServiceError(bad_key_sentence(request.key), cause)


def _no_model(error: ErrorResponse, request: CompletionRequest, cause: str) -> ServiceError:
    if error.code == "model_not_found" or MODEL.search(error.message):
        return ServiceError(catalog.NO_MODEL.format(request.model), cause)
    return ServiceError(catalog.GARBLED, cause)


def mentions_structure(error: ErrorResponse) -> bool:
    """Tell whether an error mentions a field for what an answer must match."""
    said = f"{error.param} {error.code} {error.message}".lower()
    return any(one in said for one in FIELDS)


def _option(error: ErrorResponse, request: CompletionRequest) -> str:
    """Return the name of the option that a service does not accept; empty if it names none."""
    set_options = [name for name, value in request.options.items() if value is not None]
    named = [name for name in set_options if re.search(rf"\b{name}\b", error.message)]
    return error.param if error.param in set_options else "".join(named[:1])


def _refuses_constraint(error: ErrorResponse, request: CompletionRequest) -> bool:
    wanted = request.constraint is not None and error.status in (400, 422, 500, 501)
    return wanted and mentions_structure(error)


RULES = (  # (condition, result), in this order
    (lambda error, _: error.status == 401 or BAD_KEY.search(error.message), _bad_key),
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
    (
        _refuses_constraint,
        lambda _, request, cause: ServiceError(
            catalog.NOT_AN_OPTION.format(request.constraint.kind), cause
        ),
    ),
    (
        lambda error, _: refuses_roles(error),
        lambda _, __, cause: ServiceError(catalog.NOT_ACCEPTED, cause),
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
