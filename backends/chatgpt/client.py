"""A client that sends through OpenAI's SDK; the one module that imports the SDK."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import openai

from backends._cloud.api_key import OPERATOR, Key
from backends._cloud.errors import parse_retry_after
from backends._cloud.not_understood import short
from backends._http.redirects import BECOMES_GET
from backends._http.transport_errors import ConnectionFailed, Failure

from .error_response import ErrorResponse
from .transport import Transport, httpx

logger = logging.getLogger(__name__)

MOST_NAMED = 8  # redirects that the log names
CONNECT_TIMEOUT = 10.0  # seconds
NOISY_LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")  # they log chats
PLACEHOLDER = "none"  # the SDK wants a key; it is never sent


class Client:
    """A service that speaks OpenAI's protocol; safe for threads."""

    def __init__(self, base_url: str) -> None:
        for name in NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        library = httpx.Client(
            transport=Transport(base_url, _Redirects(base_url)),
            follow_redirects=True,
            trust_env=False,
        )
        self._sdk = openai.OpenAI(
            api_key=PLACEHOLDER,
            base_url=base_url,
            max_retries=0,
            http_client=library,
            default_headers={"Accept-Encoding": "identity"},  # compression delays pieces
        )

    def create_completion(self, body: dict[str, Any], key: Key, timeout: float) -> StreamedResponse:
        """Send a chat; timeout: seconds without a byte. Raises ErrorResponse, ConnectionFailed."""
        create = self._sdk.chat.completions.with_raw_response.create
        with _translated_errors():
            response = create(
                model=body["model"],
                messages=body["messages"],
                stream=body["stream"],
                extra_body=body,
                extra_headers=_headers(key),
                timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
            )
        return StreamedResponse(response.http_response)

    def list_models(self, key: Key, timeout: float) -> list[dict[str, Any]]:
        """Return the service's entries on its models. Raises ErrorResponse, ConnectionFailed."""
        list_models = self._sdk.models.with_raw_response.list
        with _translated_errors():
            response = list_models(extra_headers=_headers(key), timeout=httpx.Timeout(timeout))
            body = response.http_response.json()
        if isinstance(body, dict):
            body = body.get("data") or body.get("models")
        return [one for one in body or [] if isinstance(one, dict)]

    def close(self) -> None:
        """Close the idle connections."""
        self._sdk.close()


class _Redirects:
    """Say which --base_url needs no redirect.

    Refuse one that makes a GET of a chat, or leads to another origin, which the chat is not for.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._named: set[str] = set()

    def __call__(self, method: str, status: int, place: str, stays: bool) -> None:
        """Log a redirect once; raises ConnectionFailed if it is refused."""
        base, found, _ = place.rpartition("/chat/completions")
        base = base if found else place.rpartition("/models")[0]
        advice = f"say --base_url {base}" if base else "is --base_url right, or is this a login?"
        words = f"{advice}: {self._base_url} redirects ({status}) to {place or 'an odd place'}"
        if method != "GET" and status in BECOMES_GET:
            raise ConnectionFailed(Failure.REDIRECT, f"{words}, where a chat would arrive as GET")
        if not stays:
            raise ConnectionFailed(Failure.REDIRECT, f"{words}, where no chat or key is sent")
        if len(self._named) < MOST_NAMED and words not in self._named:
            self._named.add(words)
            logger.warning("%s", words)


class StreamedResponse:
    """A response whose body is read as it comes; its reader must close it."""

    def __init__(self, response: Any) -> None:
        self._response = response

    @property
    def label(self) -> str:
        """Return what the head says that the body is: type and compression, for the log."""
        said = self._response.headers.get("content-type"), self._response.extensions["coding"]
        return short(", ".join(filter(None, said)))

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body as it comes. Raises ConnectionFailed."""
        with _translated_errors():
            yield from self._response.iter_bytes()

    def close(self) -> None:
        """Return the connection to the pool, or close it in the middle of the response."""
        self._response.close()


def _headers(key: Key) -> dict[str, Any]:
    """Return the headers for a key: the operator's account goes with the operator's key only."""
    headers: dict[str, Any] = {"Authorization": openai.Omit()}
    if key.text:
        headers["Authorization"] = f"Bearer {key.text}"
    if key.owner != OPERATOR:
        headers["OpenAI-Organization"] = headers["OpenAI-Project"] = openai.Omit()
    return headers


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise ErrorResponse or ConnectionFailed for whatever the SDK and httpx raise."""
    try:
        yield
    except openai.APIStatusError as error:
        response = error.response
        after = parse_retry_after(response.headers)
        raise ErrorResponse.from_response(error.status_code, response.content, after) from None
    except (openai.OpenAIError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _connection_failed(error) from None


def _connection_failed(error: Exception) -> ConnectionFailed:
    """Return what Transport raised, which the SDK wraps; other errors count as no HTTP."""
    while error.__cause__ is not None and not isinstance(error, ConnectionFailed):
        error = error.__cause__  # type: ignore[assignment]
    return error if isinstance(error, ConnectionFailed) else ConnectionFailed.by(error)
