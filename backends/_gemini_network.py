"""Make of what the network does instead of bringing an answer a sentence and a cause."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator

from requests.exceptions import ConnectTimeout, InvalidURL
from urllib3.exceptions import DecodeError, ReadTimeoutError

from kuwa_min import sentences

from ._gemini_session import Broken
from ._refusal import Passing, Refusal

# The first line that an error, or what it came from, belongs to says what it means.
MEANINGS: tuple[tuple[type[BaseException], str, type[Refusal]], ...] = (
    (ssl.SSLCertVerificationError, sentences.NOT_TRUSTED, Refusal),
    (ConnectTimeout, sentences.UNREACHABLE, Refusal),
    (ReadTimeoutError, sentences.TOO_SLOW, Refusal),
    (TimeoutError, sentences.TOO_SLOW, Refusal),
    (InvalidURL, sentences.UNREACHABLE, Refusal),
    (socket.gaierror, sentences.UNREACHABLE, Refusal),
    (ssl.SSLError, sentences.UNREACHABLE, Refusal),
    (DecodeError, sentences.GARBLED, Refusal),
    (ConnectionError, sentences.UNREACHABLE, Passing),
    (http.client.IncompleteRead, sentences.UNREACHABLE, Passing),
    (http.client.HTTPException, sentences.GARBLED, Refusal),
)


def explain(broken: Broken) -> Refusal:
    """Return what became of a connection; its cause quotes nothing that the other side said."""
    chain = list(_chain(broken))
    cause = f"{type(chain[-1]).__name__}{_reason(chain[-1])}"
    if isinstance(chain[-1], ssl.SSLCertVerificationError):
        cause += "; REQUESTS_CA_BUNDLE in the environment names a file of certificates to trust"
    for kind, sentence, refusal in MEANINGS:
        if any(isinstance(error, kind) for error in chain):
            return refusal(sentence, cause)
    return Passing(sentences.UNREACHABLE, cause)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, the innermost last."""
    inner: BaseException | None = error.__cause__
    while inner is not None:
        yield inner
        inner = inner.__cause__ or inner.__context__


def _reason(error: BaseException) -> str:
    """Return the system's own words: those of others may quote what came."""
    words = getattr(error, "verify_message", "") or getattr(error, "strerror", "")
    return f": {words}" if isinstance(error, OSError) and words else ""
