"""Render a chat with its model's chat template, to the letter as transformers does.

Imports jinja2 with the first template only, and nothing of ours at run time: the sandbox process
runs this source where our packages cannot be imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from kuwa_min.chat.modelfile import Message

T = TypeVar("T")

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}assistant:"
)
MAX_REASON = 200  # characters of an error message that come from the template


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
        self._template: Any = _translating(lambda: create_environment().from_string(source))

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises TemplateError if the template fails or refuses it.

        more: further variables, which take precedence over `names`.
        """
        # Templates test whether tools and documents are defined, or whether they are none.
        names = {"tools": None, "documents": None, "add_generation_prompt": True}
        names |= self._names | more
        text: str = _translating(lambda: self._template.render(names, messages=chat))
        return text


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
