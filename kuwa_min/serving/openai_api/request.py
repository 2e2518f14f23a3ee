"""Requests of /v1 as executors take chats: history, options of a Modelfile, form.

Facts about the protocol:
- Clients send what they know of: unknown fields, and those of other services, are not refused.
- null stands for a field that is not given.
- max_completion_tokens took the place of max_tokens, and developer that of system.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from kuwa_min.chat.bounded_json import TooManyValues
from kuwa_min.chat.modelfile import Message, Modelfile, ParameterDict
from kuwa_min.chat.modelfile_text import read_json
from kuwa_min.chat.request_extras import RequestExtras
from kuwa_min.kernel.protocol import ChatRequest
from kuwa_min.options.constraint import JSON_SCHEMA

from . import messages, response_format, tools
from .errors import ApiError
from .fields import Fields
from .sentences import (
    A_TEXT,
    NEEDS,
    NOT_JSON,
    NOT_SUPPORTED,
    ONE_ANSWER,
    STOP_WORDS,
    TOO_MANY_VALUES,
)

MOST_STOPS, LONGEST_STOP = 64, 1000  # as of the options' stop
MOST_TOKENS = 2**31 - 1
SEEDS = 2**63
COMPLETION_TOKENS = 16  # of completions that ask for no other limit, as at OpenAI
# Field -> least and most. Those of whole numbers are below. Engines may have closer bounds.
NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0.01, 100),
    "repeat_penalty": (0.01, 100),
}
WHOLES = {"top_k": (-1, MOST_TOKENS), "thinking_tokens": (0, MOST_TOKENS)}
# What would change the answer, but is not offered: refused unless it asks for nothing.
REFUSED = ("logit_bias", "audio", "prediction", "functions", "suffix", "echo")
LOGPROBS, TOP_LOGPROBS = "logprobs", "top_logprobs"
MOST_ALTERNATIVES = 20  # of a token; as OpenAI has it for chats
OF_CHAT = ("input", "modelfile")  # fields of a form that are no parameters
TOOLS = "tools"  # the field, and the feature of executors that support it
TOOL_TEMPLATE = "tool_template"  # the feature of executors that read RequestExtras.tools
CHAT_ID = "-1"  # of calls of Kuwa's own API


class ApiRequest(NamedTuple):
    """One request of /v1."""

    model: str
    chat: ChatRequest
    stream: bool
    include_usage: bool
    user: str  # as the client names it, "" if it does not
    needs: Mapping[str, str]  # features of the executor -> the field that asks for each
    functions: frozenset[str] = frozenset()  # names of those that the model may call
    ignored: str = ""  # the field that this executor ignores, if there is one


def read_object(body: bytes | bytearray) -> Fields:
    """Parse the body of a request, whatever its Content-Type says; raises ApiError.

    Surrogates without a partner are replaced, so all of it can be encoded.
    """
    try:
        found = read_json(body.decode("utf-8-sig"))
    except TooManyValues:
        raise ApiError(400, TOO_MANY_VALUES) from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ApiError(400, NOT_JSON)
    return Fields(found)


def read_chat(
    fields: Fields,
    language: str | None,
    headers: Mapping[str, list[str]],
    features: Collection[str] = (),
) -> ApiRequest:
    """Return a request of chat/completions; raises ApiError.

    language: the request's Accept-Language. headers: for executors that read them themselves.
    features: of the executor.
    """
    _refuse_what_is_not_offered(fields)
    offered, ignored = tools.read(fields), ""
    if TOOLS not in features and offered.names and offered.schema is None:
        offered, ignored = tools.NO_TOOLS, TOOLS  # the model need not call any
    in_template = TOOL_TEMPLATE in features
    conversation = messages.read(fields, offered.demands if in_template else offered.prompt())
    options, needs = _options(fields), {}
    if conversation.image is not None:
        options["enable_multimodal"] = True
        needs["images"] = conversation.image
    if offered.names:
        needs[TOOLS] = TOOLS
    schema = response_format.read_schema(fields)
    if offered.schema is not None and JSON_SCHEMA in features:
        options[JSON_SCHEMA] = offered.schema  # the format is one of answers that are no call
    elif schema is not None:
        options[JSON_SCHEMA] = schema
        needs[JSON_SCHEMA] = "response_format"
    extras = RequestExtras(
        separate_thoughts=True,
        tools=offered.functions if in_template else (),
        logprobs=_chat_logprobs(fields, needs),
    )
    asked = _request(fields, conversation.history, options, needs, extras, language, headers)
    return asked._replace(functions=offered.names, ignored=ignored)


def read_completion(
    fields: Fields,
    language: str | None,
    headers: Mapping[str, list[str]],
    features: Collection[str] = (),
) -> ApiRequest:
    """Return a request of completions, whose prompt no template renders; as `read_chat`."""
    _refuse_what_is_not_offered(fields)
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        raise fields.refuse("prompt", A_TEXT)
    history = [Message(role="user", content=prompt)]
    options = {"max_tokens": COMPLETION_TOKENS, **_options(fields), "enable_multimodal": False}
    needs = {"raw_prompt": "prompt"}
    extras = RequestExtras(raw_prompt=True, logprobs=_completion_logprobs(fields, needs))
    return _request(fields, history, options, needs, extras, language, headers)


def _request(
    fields: Fields,
    history: list[Message],
    options: dict[str, Any],
    needs: Mapping[str, str],
    extras: RequestExtras,
    language: str | None,
    headers: Mapping[str, list[str]],
) -> ApiRequest:
    model, user = fields.text("model", required=True) or "", fields.text("user") or ""
    stream = fields.boolean("stream")
    streaming = fields.object("stream_options")
    form = _form(history, options, name=model, user_id=user)
    modelfile = Modelfile(
        parameters=ParameterDict(
            {
                **{f"llm_{name}": value for name, value in options.items()},
                **{f"_{name}": value for name, value in form.items() if name not in OF_CHAT},
                "_lang": language,
                "_kuwa_api_base_urls": None,
            }
        )
    )
    modelfile.extras = extras
    chat = ChatRequest(history, modelfile, form, headers)
    include_usage = streaming is not None and streaming.boolean("include_usage")
    return ApiRequest(model, chat, stream, include_usage, user, needs)


def _refuse_what_is_not_offered(fields: Fields) -> None:
    for name in REFUSED:
        if fields.get(name):
            raise ApiError(400, NOT_SUPPORTED.format(name), param=name)
    for name in ("n", "best_of"):
        if fields.get(name) not in (None, 1):
            raise ApiError(400, ONE_ANSWER.format(name), param=name)


def _chat_logprobs(fields: Fields, needs: dict[str, str]) -> int | None:
    """Return the alternatives wanted beside each token's log probability; None for neither."""
    alternatives = fields.number(TOP_LOGPROBS, 0, MOST_ALTERNATIVES, whole=True)
    if fields.boolean(LOGPROBS):
        needs[LOGPROBS] = LOGPROBS
        return int(alternatives or 0)
    if alternatives:
        raise ApiError(400, NEEDS.format(TOP_LOGPROBS, LOGPROBS), param=TOP_LOGPROBS)
    return None


def _completion_logprobs(fields: Fields, needs: dict[str, str]) -> int | None:
    """Return the same of a completion, where one field says both; false asks for nothing."""
    if fields.get(LOGPROBS) is None or fields.get(LOGPROBS) is False:
        return None
    needs[LOGPROBS] = LOGPROBS
    alternatives = fields.number(LOGPROBS, 0, MOST_ALTERNATIVES, whole=True)
    return None if alternatives is None else int(alternatives)


def _options(fields: Fields) -> dict[str, Any]:
    """Return the generation options by the names that they have in Modelfiles, without llm_."""
    found: dict[str, Any] = {
        name: fields.number(name, least, most) for name, (least, most) in NUMBERS.items()
    }
    for name, (least, most) in WHOLES.items():
        found[name] = fields.number(name, least, most, whole=True)
    found["seed"] = fields.number("seed", -SEEDS, SEEDS - 1, whole=True)
    for name in ("max_tokens", "max_completion_tokens"):
        limit = fields.number(name, 1, MOST_TOKENS, whole=True)
        found["max_tokens"] = found.get("max_tokens") if limit is None else limit
    found["stop"] = _stop_words(fields)
    found["reasoning_effort"] = fields.text("reasoning_effort")
    variables = fields.object("chat_template_kwargs")
    found["template_kwargs"] = None if variables is None else fields.get("chat_template_kwargs")
    return {name: value for name, value in found.items() if value is not None}


def _stop_words(fields: Fields) -> list[str] | None:
    value = fields.get("stop")
    words = [value] if isinstance(value, str) else value
    if words is None:
        return None
    if (
        not isinstance(words, list)
        or len(words) > MOST_STOPS
        or not all(isinstance(one, str) and len(one) <= LONGEST_STOP for one in words)
    ):
        raise fields.refuse("stop", STOP_WORDS.format(MOST_STOPS, LONGEST_STOP))
    return [one for one in words if one]


def _form(history: list[Message], options: dict[str, Any], **ids: str) -> dict[str, str]:
    """Return the form that Kuwa's own API would send, for executors that read it themselves.

    There, a client's system message is one of the assistant's before the first of the user's.
    """
    entries = [{"isbot": one["role"] != "user", "msg": one["content"]} for one in history]
    commands = [
        {"name": "parameter", "args": f"llm_{name} {_argument(value)}"}
        for name, value in options.items()
    ]
    return {
        "input": json.dumps(entries),
        "modelfile": json.dumps(commands),
        "history_id": CHAT_ID,
        **ids,
    }


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
