"""Read the errors of services that speak OpenAI's protocol, in whatever shape they come. No I/O.

Shapes: {"error": {"message", "type", "code", "param"}} (OpenAI), the same without the outer object
(older vLLM, SGLang), {"error": "text"} (Ollama, TGI), [{"error": {...}}] (Google), {"detail": ...}
(FastAPI), {"text", "error_code"} (FastChat), {"errors": [...]} (Cloudflare), plain text, a page.
The number that says how bad it is stands in the status, or, within an answer, in a code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from backends._cloud.json_reader import JsonReader, UnreadableBody

MESSAGES = ("message", "msg", "error_msg", "text")
CODES = ("code", "type", "error_type", "status", "error_code")
NUMBERS = ("n_prompt_tokens", "n_ctx")  # llama-server: tokens of the prompt, and what fits
LONGEST = 10_000  # characters of the words that are searched
UNKNOWN = 500  # status of an error within an answer that does not tell
FASTCHAT = {
    40301: "model_not_found",
    40302: "invalid_parameter",
    40303: "context_length_exceeded",
    42902: "insufficient_quota",
}
STATUSES = (  # (words of a code, status): for errors within an answer
    (r"api_?key|authenticat|unauthori[sz]ed", 401),
    (r"permission|forbidden", 403),
    (r"not_?found", 404),
    (r"quota|rate_?limit|exhausted|too_?many|throttl", 429),
    (r"overloaded|over_capacity|unavailable", 503),
    (r"timeout|deadline", 504),
    (r"invalid|bad_?request|validation|context", 400),
)
DELAY = re.compile(
    r"(?:try again|retry) (?:in|after) (?:(\d{1,4})m)?(\d{1,6}(?:\.\d{1,9})?)\s?(ms|s)"
)


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
        cls, status: int, body: bytes, retry_after: float | None = None
    ) -> ErrorResponse:
        """Read the body that came with a status; retry_after: seconds, as the head says."""
        reader = JsonReader()
        try:
            events = [*reader.feed(body), *reader.finish()]
        except UnreadableBody:
            events = []
        found = next((one.data for one in events if isinstance(one.data, Mapping)), None)
        text = str(body, "utf-8", "replace")
        return cls._of(status, ErrorBody.of(text if found is None else found), retry_after)

    @classmethod
    def from_event(cls, body: object) -> ErrorResponse:
        """Read what came within an answer that began with status 200."""
        found = ErrorBody.of(body)
        return cls._of(found.status or _status_of(found.code), found, None)

    @classmethod
    def _of(cls, status: int, body: ErrorBody, retry_after: float | None) -> ErrorResponse:
        if retry_after is None:
            retry_after = _delay(body.message)
        return cls(status, body.message, code=body.code, param=body.param, retry_after=retry_after)


class ErrorBody(NamedTuple):
    """What the body of an error says."""

    message: str = ""
    code: str = ""  # a name if there is one, else a number
    param: str = ""
    status: int = 0  # 0: none

    @classmethod
    def of(cls, body: object) -> ErrorBody:
        """Read an object, a list of them or a text; a web page says nothing."""
        if isinstance(body, str):
            return cls("" if body.lstrip().startswith("<") else body)
        if isinstance(body, list):
            return cls.of(body[0]) if body and isinstance(body[0], (str, Mapping)) else cls()
        if not isinstance(body, Mapping):
            return cls()
        inner = body.get("error") or body.get("errors")
        if isinstance(inner, (list, Mapping)):
            return cls.of(inner)
        return cls(_message(body, inner), _code(body), str(body.get("param") or ""), _status(body))


def _message(body: Mapping[str, Any], inner: object) -> str:
    """Return the words of an error, with the token counts that stand beside them."""
    words = [body.get(name) for name in MESSAGES] + [inner]
    found = next((one for one in words if isinstance(one, str) and one), "")
    numbers = [f"{name} {body[name]}" for name in NUMBERS if type(body.get(name)) is int]
    parts = (found or _detail(body.get("detail")), _providers_words(body), ", ".join(numbers))
    return "; ".join(filter(None, parts))


def _providers_words(body: Mapping[str, Any]) -> str:
    """Return what the service behind OpenRouter says, which stands as text in the metadata."""
    metadata = body.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if not isinstance(raw, str):
        return ""
    try:
        return ErrorBody.of(json.loads(raw)).message
    except (ValueError, RecursionError):
        return ErrorBody.of(raw).message


def _detail(detail: object) -> str:
    """Return FastAPI's `detail`, without the parts of the request that it quotes."""
    if isinstance(detail, Mapping):
        return ErrorBody.of(detail).message
    if not isinstance(detail, list):
        return detail if isinstance(detail, str) else ""
    found = [one for one in detail if isinstance(one, Mapping)]
    return "; ".join(f"{_location(one.get('loc'))}: {one.get('msg')}" for one in found[:3])


def _location(path: Any) -> str:
    return ".".join(map(str, path)) if isinstance(path, list) else "?"


def _code(body: Mapping[str, Any]) -> str:
    """Return the name of an error; a number only if it has none."""
    found = [str(body[name]) for name in CODES if isinstance(body.get(name), (str, int))]
    fastchat = [FASTCHAT[int(one)] for one in found if one.isdecimal() and int(one) in FASTCHAT]
    named = [one for one in found if not one.isdecimal() and one not in ("error", "True", "False")]
    return next(iter([*fastchat, *named, *filter(None, found)]), "")


def _status(body: Mapping[str, Any]) -> int:
    """Return the status that an error names: as such, or as the beginning of FastChat's codes."""
    for name in (*CODES, "status_code"):
        number = re.fullmatch(r"([45]\d\d)(\d\d)?", str(body.get(name)))
        if number:
            return 400 if number[2] and number[1] == "403" else int(number[1])
    return 0


def _status_of(code: str) -> int:
    found = (status for words, status in STATUSES if re.search(words, code, re.IGNORECASE))
    return next(found, UNKNOWN)


def _delay(message: str) -> float | None:
    """Return the seconds after which a service says to try again: "in 1m2.5s", "in 350ms"."""
    found = DELAY.search(message)
    if not found:
        return None
    seconds = float(found[2]) / (1000 if found[3] == "ms" else 1)
    return 60 * int(found[1] or 0) + seconds
