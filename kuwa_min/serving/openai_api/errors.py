"""Errors in OpenAI's shape, with the HTTP status that its clients know what to do with."""

from __future__ import annotations

import json
import re

from kuwa_min.chat import catalog
from kuwa_min.chat.sentence import Language, Sentence, innermost, render
from kuwa_min.errors import HTTPError

from .sentences import FUNCTIONS_COUNT

CONTEXT_LENGTH = "context_length_exceeded"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
BRACKETED = re.compile(r"\s*\[(.*)\]\s*", re.DOTALL)  # a sentence as chats show it

# Sentences in place of an answer -> status. Clients try again after 408, 409, 429 and 5xx; all
# others, those of custom executors included, are about the request: 400.
STATUSES = {
    503: (catalog.NO_SLOT, catalog.STOPPING, catalog.CUT_SHORT, catalog.OUT_OF_MEMORY),
    500: (catalog.OVERFLOWED,),
    429: (catalog.BUSY, catalog.QUOTA),
    504: (catalog.TOO_SLOW,),
    # of a service behind this executor: its key is the operator's, not the client's
    502: (
        *(catalog.NO_OPENAI_KEY, catalog.NO_THIRD_PARTY_KEY, catalog.NO_GOOGLE_KEY),
        *(catalog.BAD_OPENAI_KEY, catalog.BAD_THIRD_PARTY_KEY, catalog.BAD_GOOGLE_KEY),
        *(catalog.FORBIDDEN, catalog.UNREACHABLE, catalog.NOT_TRUSTED, catalog.SERVICE_FAILED),
        *(catalog.SERVICE_REFUSED, catalog.GARBLED, catalog.NO_ANSWER, catalog.NOT_OFFERED),
    ),
}
STATUS_OF = {one.template: status for status, several in STATUSES.items() for one in several}
CODES = {
    catalog.TOO_LONG.template: CONTEXT_LENGTH,
    catalog.NOT_ALLOWED.template: "content_filter",
    catalog.QUOTA.template: "insufficient_quota",
}


class ApiError(HTTPError):
    """A request that is refused; param: the part of it that is wrong, as a path."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        **headers: str,
    ) -> None:
        super().__init__(status, message, **headers)
        self.param, self.code = param, code


class Refusal:
    """The error in place of an answer, or of the rest of one.

    sentence: as a backend raised it, or one of ours; is_failure: that is no fault of the request.
    functions: how many the request offers; an error about its length states it.
    """

    def __init__(
        self, sentence: str, language: Language, *, is_failure: bool = False, functions: int = 0
    ) -> None:
        known = innermost(sentence)
        template = known.template if isinstance(known, Sentence) else ""
        self.status = 500 if is_failure else STATUS_OF.get(template, 400)
        self._message, self._code = _unbracketed(render(known, language)), CODES.get(template)
        if functions and self._code == CONTEXT_LENGTH:
            self._message += " " + FUNCTIONS_COUNT.format(functions).render(language)

    def to_json(self) -> bytes:
        """Return the error's object."""
        return error_json(self.status, self._message, code=self._code)


def error_json(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> bytes:
    """Return an error in OpenAI's shape; message: also one in the brackets of chats."""
    kind = "server_error" if status >= 500 else TYPES.get(status, "invalid_request_error")
    error = {"message": _unbracketed(message), "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8", "replace")


def _unbracketed(message: str) -> str:
    found = BRACKETED.fullmatch(message)
    return found[1] if found else message
