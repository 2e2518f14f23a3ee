"""A client that sends through google-generativeai; the one module that imports this SDK.

Facts about version 0.8.6, the last one of an SDK that Google has ended:
- genai.configure() is global. One client without credentials serves all users here, and the key
  goes with each request, as a header: it is never part of a URL.
- GenerativeModel hands a piece out when the next one has come. The client's own iterator reads a
  response byte by byte, ignores an error in the middle, and loses the reason of one at the
  beginning, which comes as an array, too. So the SDK writes the request and sends it, over our
  pool, and the response is read as JSON.
- Its retries sleep where no thread can wake them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from backends._cloud.json_reader import Event, JsonReader, UnreadableBody
from backends._cloud.not_understood import short
from backends._http.transport_errors import ConnectionFailed
from kuwa_min.options import generation_options
from kuwa_min.options.constraint import JSON_SCHEMA, KINDS, Constraint
from kuwa_min.options.sentences import MUST_SUIT_SERVICE, OPTION_REASON

from . import response_schema
from .transport import MalformedResponse, Transport, TruncatedResponse, iter_body

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDK warns its users of its end, which is no news here
    from google import generativeai
    from google.ai import generativelanguage
    from google.auth.credentials import AnonymousCredentials

OTHER_NAMES = {"stop": "stop_sequences"}
WITHOUT_EFFECT = {
    "response_modalities",
    "speech_config",
    "response_logprobs",
    "logprobs",
}  # no text
KEY_HEADER = "x-goog-api-key"


class Content(NamedTuple):
    """A message: its role is user or model, each part is text or a file's bytes."""

    role: str
    parts: list[dict[str, Any]]


class InvalidOption(ValueError):
    """Name an option whose value cannot be sent."""


class Client:
    """Google's service, or a gateway at this endpoint; safe for threads."""

    def __init__(self, endpoint: str) -> None:
        self._client = generativelanguage.GenerativeServiceClient(
            transport="rest",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": endpoint},
        )
        transport = Transport()
        for scheme in ("https://", "http://"):
            self._client.transport._session.mount(scheme, transport)

    def stream(self, request: Any, key: str, on_head: Callable[[str], None]) -> Iterator[Event]:
        """Send what create_request() returned; yield the objects of the response as they come.

        on_head: is told what the head says that the body is, type and compression, for the log.
        Raises ErrorResponse, ConnectionFailed, MalformedResponse or TruncatedResponse.
        """
        answer = self._client.stream_generate_content(
            request, retry=None, timeout=None, metadata=[(KEY_HEADER, key)]
        )
        with answer._response as response:
            said = map(response.headers.get, ("content-type", "content-encoding"))
            on_head(short(", ".join(filter(None, said))))
            try:
                yield from _read_events(response.raw)
            except UnreadableBody as error:
                raise MalformedResponse(str(error)) from None

    def close(self) -> None:
        """Close the idle connections."""
        self._client.transport.close()


def _read_events(body: Any) -> Iterator[Event]:
    """Yield an array's objects, or however else a gateway frames them."""
    reader, is_empty = JsonReader(), True
    try:
        for data in iter_body(body):
            is_empty = is_empty and not data.strip()
            yield from reader.feed(data)
    except ConnectionFailed:
        yield from reader.finish()
        raise
    yield from reader.finish()
    if is_empty or reader.is_truncated:
        raise TruncatedResponse("it is empty" if is_empty else "it broke off")


def text_part(text: str) -> dict[str, Any]:
    """Return text as a part of a message."""
    return {"text": text}


def file_part(data: bytes, media_type: str) -> dict[str, Any]:
    """Return a file (image, document, audio, video) as a part of a message."""
    return {"inline_data": {"mime_type": media_type, "data": data}}


def create_request(
    model: str,
    contents: list[Content],
    *,
    system: str,
    options: dict[str, Any],
    constraint: Constraint | None = None,
) -> Any:
    """Return a request as a protobuf message; raises InvalidOption."""
    return generativeai.protos.GenerateContentRequest(
        model=model,
        contents=[content._asdict() for content in contents],
        system_instruction={"parts": [text_part(system)]} if system else None,
        generation_config=generation_config(options, constraint),
    )


def _without_constraints(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in KINDS}


def _structure(constraint: Constraint | None) -> dict[str, Any]:
    """Return the fields of GenerationConfig for a constraint; raises InvalidOption."""
    if constraint is None:
        return {}
    if constraint.kind != JSON_SCHEMA:
        raise InvalidOption(constraint.kind)
    try:
        return response_schema.fields(constraint)
    except response_schema.Untranslatable as error:
        raise InvalidOption(f"{constraint.kind} ({error})") from None


def library() -> generation_options.Library:
    """Return the fields of the service's GenerationConfig."""
    known = set(generativeai.protos.GenerationConfig.meta.fields)
    passed = known - WITHOUT_EFFECT
    return generation_options.Library("Gemini's GenerationConfig", known, passed, passed, _checked)


def _checked(name: str, value: Any) -> Any:
    try:
        generation_config({name: value})
    except InvalidOption:
        raise ValueError(OPTION_REASON.format(name, MUST_SUIT_SERVICE)) from None
    return value


def generation_config(options: dict[str, Any], constraint: Constraint | None = None) -> Any:
    """Return options as a protobuf message, without those that are None; raises InvalidOption.

    constraint: what the answer must match, in place of those among the options.
    """
    config = generativeai.protos.GenerationConfig()
    for name, value in {**_without_constraints(options), **_structure(constraint)}.items():
        field = OTHER_NAMES.get(name, name)
        try:
            setattr(config, field, value)
        except (ValueError, TypeError):
            raise InvalidOption(name) from None
        if getattr(config, field) in (math.inf, -math.inf):  # the field is a float of 32 bits
            raise InvalidOption(name)
    return config
