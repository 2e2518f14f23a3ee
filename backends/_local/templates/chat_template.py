"""Render a chat with its model's chat template, to the letter as transformers does.

Imports jinja2 with the first template only, and nothing of ours at run time: the sandbox process
runs this source where our packages cannot be imported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from kuwa_min.chat.modelfile import Message

T = TypeVar("T")

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content | trim }}\n"
    "{% endfor %}assistant:"
)
# What begins a turn in it. Models without a template write the next turns, too: they end an answer.
PLAIN_TURNS = ("\nuser:", "\nassistant:", "\nsystem:")
MAX_REASON = 200  # characters of an error message that come from the template
PROBE = "kuwa-probe"  # a message that no template writes by itself


class TemplateError(Exception):
    """Report that a chat template cannot be parsed, or failed to render; in its own words."""


class ChatTemplate:
    """A compiled chat template; raises TemplateError if the source cannot be parsed.

    names: variables beside the chat. transformers passes the tokenizer's special tokens as text:
    bos_token, eos_token and so on.
    """

    def __init__(self, source: str, /, **names: Any) -> None:
        from .jinja_env import create_environment

        self._names = names
        # a byte order mark of the file that it came from
        self._source = source.removeprefix("\ufeff")
        self._template: Any = _translating(lambda: create_environment().from_string(self._source))

    @property
    def variables(self) -> frozenset[str]:
        """Return the names of the variables that the template reads."""
        from jinja2 import meta

        parsed = self._template.environment.parse(self._source)
        return frozenset(meta.find_undeclared_variables(parsed))

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises TemplateError if the template fails or refuses it.

        more: further variables, which take precedence over `names`.
        """
        messages: list[Any] = list(chat)
        if self._needs_parts:
            messages = [{**one, "content": _parts(one["content"])} for one in messages]
        return self._render(messages, **more)

    @cached_property
    def _needs_parts(self) -> bool:
        """Tell whether messages are written only if they come as lists of content parts."""
        return not self._writes(PROBE) and self._writes(_parts(PROBE))

    def _writes(self, content: Any) -> bool:
        """Tell whether a user's message appears in the text."""
        try:
            return PROBE in self._render([{"role": "user", "content": content}]).lower()
        except (TemplateError, MemoryError):
            return False

    def _render(self, messages: list[Any], **more: Any) -> str:
        # Templates test whether tools and documents are defined, or whether they are none.
        names = {"tools": None, "documents": None, "add_generation_prompt": True}
        names |= self._names | more
        text: str = _translating(lambda: self._template.render(names, messages=messages))
        return text


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _translating(work: Callable[[], T]) -> T:
    """Return work()'s result; raise TemplateError for whatever it raises, but for MemoryError."""
    try:
        return work()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a template is a program: it raises anything
        raise TemplateError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Return one line: the message that the template raised, or Python's for a mistake in it."""
    import jinja2

    message = (str(error).splitlines() or [""])[0][:MAX_REASON]
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {message}"
    if isinstance(error, jinja2.TemplateError) and message:
        return message
    return f"{type(error).__name__}: {message}"
