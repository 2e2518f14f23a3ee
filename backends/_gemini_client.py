"""Touch google-generativeai, which is at its end of life, here and nowhere else.

Facts about version 0.8.6, the last one:
- genai.configure() is global. One client without credentials serves everybody here, and the key
  goes with each request, as a header: it is never part of an address.
- GenerativeModel hands a piece out when the next one has come. The client's own iterator reads an
  answer byte by byte, takes no notice of an error in the middle, and loses the reason of one at the
  beginning, which comes as an array, too. So the SDK writes the request and sends it, and the
  answer is read from the connection.
- Its retries sleep where nobody can wake them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from kuwa_min import generation

from ._gemini_session import Adapter, read
from ._gemini_stream import ArrayReader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # they tell users of the SDK that it ends; ours cannot help it
    from google import generativeai
    from google.ai import generativelanguage
    from google.auth.credentials import AnonymousCredentials

OTHER_NAMES = {"stop": "stop_sequences"}
IDLE = {  # what makes no text, or is of no use without it
    *("response_modalities", "speech_config", "response_logprobs", "logprobs"),
}
KEY_FIELD = "x-goog-api-key"


class Content(NamedTuple):
    """What one side says; the role is user or model, a part is text or a file's bytes."""

    role: str
    parts: list[dict[str, Any]]


class BadOption(ValueError):
    """Name an option whose value cannot be sent."""


class Client:
    """Google's service, or what stands in for it at this address."""

    def __init__(self, endpoint: str) -> None:
        self._client = generativelanguage.GenerativeServiceClient(
            transport="rest",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": endpoint},
        )
        adapter = Adapter()
        for scheme in ("https://", "http://"):
            self._client.transport._session.mount(scheme, adapter)

    def ask(self, request: Any, key: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of an answer as they come.

        request: what `write` made. Raises Refused, ConnectionFailed, Garbage or BrokeOff.
        """
        reader = ArrayReader()
        answer = self._client.stream_generate_content(
            request, retry=None, timeout=None, metadata=[(KEY_FIELD, key)]
        )
        with answer._response as response:
            for data in read(response.raw):
                yield from reader.feed(data)
        reader.finish()

    def close(self) -> None:
        """Close the connections that are kept."""
        self._client.transport.close()


def text_part(text: str) -> dict[str, Any]:
    """Return text as a part of a message."""
    return {"text": text}


def file_part(data: bytes, media_type: str) -> dict[str, Any]:
    """Return a picture, document, sound or film as a part of a message."""
    return {"inline_data": {"mime_type": media_type, "data": data}}


def write(model: str, contents: list[Content], *, system: str, options: dict[str, Any]) -> Any:
    """Return a request; raises BadOption."""
    return generativeai.protos.GenerateContentRequest(
        model=model,
        contents=[content._asdict() for content in contents],
        system_instruction={"parts": [text_part(system)]} if system else None,
        generation_config=configuration(options),
    )


def library() -> generation.Library:
    """Return the fields of the service's configuration."""
    known = set(generativeai.protos.GenerationConfig.meta.fields)
    passed = known - IDLE
    return generation.Library("Gemini's GenerationConfig", known, passed, passed, _checked)


def _checked(name: str, value: Any) -> Any:
    try:
        configuration({name: value})
    except BadOption:
        raise ValueError(f"{name} must be as the service takes it") from None
    return value


def configuration(options: dict[str, Any]) -> Any:
    """Return options as the SDK sends them, without those that are None; raises BadOption."""
    config = generativeai.protos.GenerationConfig()
    for name, value in options.items():
        field = OTHER_NAMES.get(name, name)
        try:
            setattr(config, field, value)
        except (ValueError, TypeError):
            raise BadOption(name) from None
        if getattr(config, field) in (math.inf, -math.inf):  # it has half of Python's digits
            raise BadOption(name)
    return config
