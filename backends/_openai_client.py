"""Ask through OpenAI's SDK, on connections of our own; the one module that imports the SDK.

The SDK makes requests and errors, and what it is built on (httpx2, before it httpx) follows
redirects and decodes bodies. Connections are ours: theirs cannot be cut while a thread waits in
one, and give a body's chunks out one at a time.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import openai

from ._api_key import OPERATOR, Key
from ._http_connection import Origin, Request, Timeouts
from ._http_pool import ConnectionPool, Response
from ._openai_refusals import Problem
from ._refusal import asked_to_wait
from ._transport_errors import ConnectionFailed

CONNECT_SECONDS = 10.0
LONGEST_ERROR = 65536  # bytes of an error's body that are read
CHATTY = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")  # they log what people write
PLACEHOLDER = "none"  # the SDK wants a key; it is never sent

httpx: Any = importlib.import_module("httpx2" if "httpx2" in sys.modules else "httpx")


class Body(httpx.SyncByteStream):  # type: ignore[misc]
    """A response's body as httpx reads it. Raises ConnectionFailed, which httpx lets through."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._remaining = LONGEST_ERROR if response.status >= 400 else sys.maxsize

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        while self._remaining > 0 and (data := self._response.read()):
            self._remaining -= len(data)
            yield data

    def close(self) -> None:
        """Return the connection to the pool, or close it in the middle of the response."""
        self._response.close()


class Transport(httpx.BaseTransport):  # type: ignore[misc]
    """Send the SDK's requests over our own pool. Raises ConnectionFailed."""

    def __init__(self) -> None:
        self._pool = ConnectionPool()

    def handle_request(self, request: Any) -> Any:
        """Send a request; return its response, whose body is still to come."""
        url, seconds = request.url, request.extensions.get("timeout", {})
        raw = request.headers.raw
        response = self._pool.send(
            Request(
                Origin.of(url.scheme, url.raw_host.decode("ascii"), url.port),
                request.method,
                url.raw_path.decode("ascii"),
                [(name.decode("ascii"), value.decode("latin-1")) for name, value in raw],
                request.read(),
            ),
            Timeouts(seconds.get("connect"), seconds.get("read")),
        )
        return httpx.Response(response.status, headers=response.headers, stream=Body(response))

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


class Client:
    """A service of OpenAI's kind; safe for threads."""

    def __init__(self, base_url: str) -> None:
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        library = httpx.Client(transport=Transport(), follow_redirects=True, trust_env=False)
        self._sdk = openai.OpenAI(
            api_key=PLACEHOLDER,
            base_url=base_url,
            max_retries=0,
            http_client=library,
            default_headers={"Accept-Encoding": "identity"},  # compressed pieces would wait
        )

    def chat(self, body: dict[str, Any], key: Key, seconds: float) -> Reply:
        """Send a chat; return the answer as its bytes come. Raises Problem."""
        ask = self._sdk.chat.completions.with_raw_response.create
        with _problems():
            answer = ask(
                model=body["model"],
                messages=body["messages"],
                stream=True,
                extra_body=body,
                extra_headers=_fields(key),
                timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
            )
        return Reply(answer.http_response)

    def models(self, key: Key, seconds: float) -> list[dict[str, Any]]:
        """Return what the service says of its models. Raises Problem."""
        ask = self._sdk.models.with_raw_response.list
        with _problems():
            answer = ask(extra_headers=_fields(key), timeout=httpx.Timeout(seconds))
            found = answer.http_response.json()
        listed = found.get("data") if isinstance(found, dict) else None
        return [one for one in listed or [] if isinstance(one, dict)]

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._sdk.close()


class Reply:
    """An answer as its bytes come."""

    def __init__(self, response: Any) -> None:
        self._response = response

    @property
    def is_json(self) -> bool:
        """Tell whether it is one JSON object, from a service that does not stream."""
        return bool(self._response.headers.get("content-type", "").startswith("application/json"))

    def __iter__(self) -> Iterator[bytes]:
        """Yield what comes, as much at a time as has come. Raises Problem."""
        with _problems():
            yield from self._response.iter_bytes()

    def close(self) -> None:
        """Give the connection back, or close it in the middle of the answer."""
        self._response.close()


def _fields(key: Key) -> dict[str, Any]:
    """Return the fields of a key: its own, and for another's key none of the operator's account."""
    fields: dict[str, Any] = {"Authorization": openai.Omit()}
    if key.text:
        fields["Authorization"] = f"Bearer {key.text}"
    if key.owner != OPERATOR:
        fields["OpenAI-Organization"] = fields["OpenAI-Project"] = openai.Omit()
    return fields


@contextlib.contextmanager
def _problems() -> Iterator[None]:
    """Raise Problem or ConnectionFailed for whatever the SDK and httpx raise."""
    try:
        yield
    except openai.APIStatusError as error:
        after = asked_to_wait(error.response.headers)
        raise Problem.of_answer(error.status_code, error.body, after) from None
    except (openai.OpenAIError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _connection_failed(error) from None


def _connection_failed(error: Exception) -> ConnectionFailed:
    """Return what our transport raised, which the SDK wraps; anything else is no HTTP."""
    while error.__cause__ is not None and not isinstance(error, ConnectionFailed):
        error = error.__cause__  # type: ignore[assignment]
    return error if isinstance(error, ConnectionFailed) else ConnectionFailed.by(error)
