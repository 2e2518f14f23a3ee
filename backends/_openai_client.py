"""Ask through OpenAI's SDK, on connections of our own; the one module that imports the SDK.

The SDK makes requests and errors, and what it is built on (httpx2, before it httpx) follows
redirects and decodes bodies. Connections are ours: theirs cannot be cut while a thread waits in
one, and give a body's chunks out one at a time.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import logging
import ssl
import sys
from collections.abc import Iterator
from typing import Any

import openai

from ._api_key import OPERATOR, Key
from ._http_body import BrokenOff
from ._http_connection import NotConnected, Origin, Timeouts
from ._http_pool import Answer, Pool
from ._openai_refusals import BROKEN, CERTIFICATE, CONNECTION, GARBLED, TIMEOUT, Problem
from ._refusal import asked_to_wait

CONNECT_SECONDS = 10.0
LONGEST_ERROR = 65536  # bytes of an error's body that are read
CHATTY = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")  # they log what people write
PLACEHOLDER = "none"  # the SDK wants a key; it is never sent

httpx: Any = importlib.import_module("httpx2" if "httpx2" in sys.modules else "httpx")


class Body(httpx.SyncByteStream):  # type: ignore[misc]
    """A body as the SDK's library reads it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._left = LONGEST_ERROR if answer.status >= 400 else sys.maxsize

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        try:
            while self._left > 0 and (data := self._answer.read()):
                self._left -= len(data)
                yield data
        except TimeoutError as error:
            raise httpx.ReadTimeout("no more of the answer came") from error
        except (OSError, http.client.HTTPException) as error:
            raise httpx.ReadError(str(error)) from error

    def close(self) -> None:
        """Give the connection back, or close it in the middle of the answer."""
        self._answer.close()


class Transport(httpx.BaseTransport):  # type: ignore[misc]
    """Carry the SDK's requests over connections that can be cut."""

    def __init__(self) -> None:
        self._pool = Pool(_create_tls)

    def handle_request(self, request: Any) -> Any:
        """Send a request; return its answer, whose body is still to come."""
        url, seconds = request.url, request.extensions.get("timeout", {})
        raw = request.headers.raw
        fields = [(name.decode("ascii"), value.decode("latin-1")) for name, value in raw]
        try:
            answer = self._pool.ask(
                Origin.of(url.scheme, url.raw_host.decode("ascii"), url.port),
                request.method,
                url.raw_path.decode("ascii"),
                fields,
                request.read(),
                Timeouts(seconds.get("connect"), seconds.get("read")),
            )
        except NotConnected as error:
            raise httpx.ConnectError(str(error)) from error
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer came") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise httpx.ConnectError(str(error)) from error
        return httpx.Response(answer.status, headers=answer.fields, stream=Body(answer))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._pool.close()


def _create_tls() -> ssl.SSLContext:
    context: ssl.SSLContext = httpx.create_ssl_context()
    return context


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
    """Make a Problem of whatever the SDK and its library raise."""
    try:
        yield
    except openai.APIStatusError as error:
        after = asked_to_wait(error.response.headers)
        raise Problem.of_answer(error.status_code, error.body, after) from None
    except (openai.OpenAIError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise Problem(_what_happened(error), _root(error)) from None


def _what_happened(error: BaseException) -> str:
    """Return why no answer came, which the innermost cause knows best."""
    chain = list(_causes(error))
    return next((what for kind, what in KINDS if any(isinstance(e, kind) for e in chain)), GARBLED)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _root(error: BaseException) -> str:
    """Return the innermost cause, for the log."""
    *_, root = _causes(error)
    advice = ""
    if isinstance(root, ssl.SSLCertVerificationError):
        advice = "; SSL_CERT_FILE=... names a file of certificates to trust"
    return f"{type(root).__name__}: {root}{advice}"


KINDS: tuple[tuple[Any, str], ...] = (  # the first that is among the causes says what happened
    (ssl.SSLCertVerificationError, CERTIFICATE),
    (ssl.SSLError, GARBLED),  # such as plain HTTP where TLS was expected
    (http.client.RemoteDisconnected, CONNECTION),
    (BrokenOff, BROKEN),
    (httpx.ReadTimeout, TIMEOUT),
    (http.client.HTTPException, GARBLED),
    (httpx.ReadError, BROKEN),
    (OSError, CONNECTION),
)
