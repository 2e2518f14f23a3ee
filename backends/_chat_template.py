"""Write a chat down as its model's template says, to the letter as transformers does.

Loads jinja2 with the first template only, and knows nothing of us: the process that renders
strangers' templates runs this source where our packages cannot be imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from kuwa_min.modelfile import Message

T = TypeVar("T")

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}assistant:"
)
REASON = 200  # characters that are kept of a template's own words


class RefusedTemplate(Exception):
    """Report that a chat template does not accept the messages, with its own words."""


class ChatTemplate:
    """A model's own way to write a chat down; raises RefusedTemplate if it cannot be read.

    names: what the template may use besides the chat. transformers gives it the tokenizer's
    special tokens, as text: bos_token, eos_token and so on.
    """

    def __init__(self, source: str, /, **names: Any) -> None:
        from ._template_language import environment

        self._names = names
        self._template: Any = _or_refuse(lambda: environment().from_string(source))

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises RefusedTemplate if the template refuses it.

        more: further names, which come before the template's.
        """
        # Templates ask whether tools and documents are defined, or whether they are none.
        names = {"tools": None, "documents": None, "add_generation_prompt": True}
        names |= self._names | more
        text: str = _or_refuse(lambda: self._template.render(names, messages=chat))
        return text


def _or_refuse(work: Callable[[], T]) -> T:
    try:
        return work()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a template is a program: it raises anything
        raise RefusedTemplate(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Return one line: the template's own words, or what Python says to its mistake."""
    import jinja2

    said = (str(error).splitlines() or [""])[0][:REASON]
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno}: {said}"
    if isinstance(error, jinja2.TemplateError) and said:
        return said
    return f"{type(error).__name__}: {said}"
