"""Render chat templates, which are programs of strangers, in jinja2's sandbox."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kuwa_min.errors import StartError
from kuwa_min.modelfile import Message

from ._model_executor import RefusedTemplate

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}assistant:"
)


class ChatTemplate:
    """A model's own way to write a chat down; raises StartError if it cannot be read."""

    def __init__(self, source: str, *, bos_token: str, eos_token: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(
            raise_exception=_refuse,
            strftime_now=_now,
            bos_token=bos_token,
            eos_token=eos_token,
        )
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise StartError(
                f"the chat template cannot be read: {error}; --override_chat_template gives another"
            ) from None

    def render(self, chat: list[Message]) -> str:
        """Return the chat as text; raises RefusedTemplate if the template refuses it."""
        try:
            return self._template.render(messages=chat, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RefusedTemplate(str(error).partition("\n")[0]) from None


class Generation(Extension):
    """Read over {% generation %}, with which templates mark what a model says for training."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way

    def parse(self, parser: Any) -> Any:
        """Return what stands between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
