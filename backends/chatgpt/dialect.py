"""Write a request as one model of a service accepts it, learning from its error responses.

Services that speak OpenAI's protocol differ in what they accept. Each model is first sent all that
is set; what it refuses by name is renamed or left out from then on, and the request is sent again.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Mapping
from typing import Any

from backends._cloud.errors import ServiceError
from backends._cloud.request import CompletionRequest
from backends._media import links
from backends._media.attachments import Attachment
from kuwa_min.chat import catalog
from kuwa_min.chat import prompt as prompts
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.thinking.formats import Format
from kuwa_min.log.redaction import content
from kuwa_min.options.constraint import JSON_SCHEMA, Constraint
from kuwa_min.options.thinking import TEMPLATE_KWARGS, THINKING, THINKING_TOKENS

from . import structured
from .error_response import ErrorResponse
from .errors import mentions_structure, refuses_roles

logger = logging.getLogger(__name__)

EXTRA = "extra_body"  # an option whose value is merged into the request
# which are not sent as they are
LOCAL_OPTIONS = ("timeout", EXTRA, THINKING.name, THINKING_TOKENS.name, TEMPLATE_KWARGS.name)
VARIABLES = "chat_template_kwargs"  # what vLLM, SGLang and llama-server call them
OTHER_NAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
STREAM_OPTIONS = {"include_usage": True}  # the last event then has the token counts
UNSUPPORTED = re.compile(
    r"not (supported|permitted|allowed|support\b)|unsupported|unrecogni[sz]ed|unknown|unexpected",
    re.IGNORECASE,
)
# of vLLM, which takes the older or the newer field of a constraint, in some versions not both
EXCLUSIVE = re.compile(r"only (use |specify )?one|mutually exclusive|together|both", re.IGNORECASE)
BAD_REQUEST = (400, 422)
MAX_LOOSE = 64  # schemas that are remembered as not guaranteed


class ModelParameters:
    """The parameters that one model accepts; safe for threads, as facts are only added."""

    def __init__(self, defaults: dict[str, Any]) -> None:
        """Start with no restriction; a parameter that has its default may be left out later."""
        self._defaults = defaults
        self._left_out: frozenset[str] = frozenset()
        self._renamed: dict[str, str] = {}
        self._folds_system = False  # the system prompt becomes a part of the first user message
        self._loose: frozenset[str] = (
            frozenset()
        )  # schemas, as text, for which the service refuses `strict`
        self._refuses_older = False  # the field names of vLLM before 0.12, beside the newer ones
        self._begins_with_user = False  # an empty user message goes before an assistant's
        # How thoughts end that the service sends as the answer, and that no tag opens; by what
        # requests ask for of the chat template, which may open them or not.
        self.headless: dict[str, Format] = {}

    def to_json(self, request: CompletionRequest, service: str = "") -> dict[str, Any]:
        """Return the body of a request; raises ServiceError if no field can state its constraint.

        service: owner of the models that the service lists, "" if unknown.
        """
        messages = request.messages
        if self._begins_with_user:
            messages = _begin_with_user(messages)
        if self._folds_system:
            messages = prompts.fold_system(messages)
        return {
            "model": request.model,
            "messages": [message_json(one, request.files) for one in messages],
            "stream": True,
            **self._parameters(request.options),
            **self._structure(request.constraint, service),
        }

    def _structure(self, wanted: Constraint | None, service: str) -> dict[str, Any]:
        if wanted is None:
            return {}
        strict = structured.is_strict(wanted) and wanted.text not in self._loose
        found = structured.fields(wanted, service, strict=strict, older=not self._refuses_older)
        if found is None:
            cause = f"a service of {service or 'unknown kind'} has no field for a {wanted.kind}"
            raise ServiceError(catalog.NOT_AN_OPTION.format(wanted.kind), cause)
        return found

    def _parameters(self, options: dict[str, Any]) -> dict[str, Any]:
        sent: dict[str, Any] = dict(options.get(EXTRA) or {})
        if "stream_options" not in self._left_out:
            sent["stream_options"] = STREAM_OPTIONS
        for name, value in options.items():
            if value is not None and name not in LOCAL_OPTIONS and not self._omits(name, value):
                sent[self._renamed.get(name, name)] = value
        if variables := options.get(TEMPLATE_KWARGS.name):
            sent[VARIABLES] = {**(sent.get(VARIABLES) or {}), **variables}
        if "top_logprobs" in sent:
            sent["logprobs"] = True  # services refuse the one without the other
        return sent

    def _omits(self, name: str, value: Any) -> bool:
        """Tell whether a parameter is left out: one that was asked for is always sent."""
        return name in self._left_out and value == self._defaults.get(name)

    def adapt(self, error: ErrorResponse, request: CompletionRequest) -> None:
        """Learn from an error how the request must be written."""
        if request.constraint and error.status in BAD_REQUEST and mentions_structure(error):
            self._adapt_structure(error, request.constraint)
        elif refuses_roles(error):
            self._adapt_roles(request.messages)
        elif error.status in BAD_REQUEST and UNSUPPORTED.search(error.message):
            self._adapt_parameters(error, request.options)

    def _adapt_structure(self, error: ErrorResponse, wanted: Constraint) -> None:
        """Leave out the older names of fields, or `strict` of a schema that is not guaranteed."""
        if wanted.kind != JSON_SCHEMA:
            self._refuses_older = self._refuses_older or bool(EXCLUSIVE.search(error.message))
        elif structured.is_strict(wanted) and wanted.text not in self._loose:
            logger.warning(
                "the service does not guarantee a JSON schema (%s): it is asked without `strict`",
                content(error.message),
            )
            self._loose = frozenset((*list(self._loose)[-MAX_LOOSE:], wanted.text))

    def _adapt_roles(self, messages: list[Message]) -> None:
        """Put an empty user message before an assistant's, or else fold the system prompt."""
        if not self._begins_with_user and _begin_with_user(messages) != messages:
            self._begins_with_user = True
        elif _roles(messages[:1]) == ["system"]:
            self._folds_system = True

    def _adapt_parameters(self, error: ErrorResponse, options: dict[str, Any]) -> None:
        """Rename the parameter that an error is about, or leave it out."""
        named = [name for name in self._parameters(options) if _mentions(error, name)]
        for name in sorted(named, key=lambda one: one != error.param):
            other = OTHER_NAMES.get(name)
            if other and other in error.message and other not in self._renamed:
                self._renamed = {**self._renamed, name: other}
                return
            if name == "stream_options" or self._defaults.get(name) == options.get(name):
                self._left_out |= {name}
                return


def _roles(messages: list[Message]) -> list[str]:
    return [one["role"] for one in messages]


def _begin_with_user(messages: list[Message]) -> list[Message]:
    """Let the user begin, behind the system prompt."""
    system = messages[:1] if _roles(messages[:1]) == ["system"] else []
    return [*system, *prompts.begin_with_user(messages[len(system) :])]


def _mentions(error: ErrorResponse, parameter: str) -> bool:
    return error.param == parameter or re.search(rf"\b{parameter}\b", error.message) is not None


def message_json(message: Message, files: Mapping[int, Attachment]) -> dict[str, Any]:
    """Return a message as services take it: text alone, or parts with images in their places."""
    parts = list(links.split(message["content"], files))
    if all(isinstance(part, str) for part in parts):
        return {**message, "content": "".join(map(str, parts))}
    return {**message, "content": [_part(part) for part in parts]}


def _part(part: str | Attachment) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
