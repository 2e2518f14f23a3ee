"""Read the Modelfile that comes with a chat: a JSON list of {"name", "args"}."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

REASONS = 5  # different reasons that one log line names
WORDS = {"true": True, "false": False, "none": None}
QUOTES = ('"""', '"', "'")


def convert_value(value: str | None) -> Any:
    """Turn a parameter's text into int, else float, else true, false or none, else leave it."""
    if value is None:
        return None
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return WORDS.get(value.lower(), value)


def extract_text_from_quotes(text: str) -> str:
    """Take surrounding quotes off if the same quote opens and closes the whole text."""
    text = text.strip()
    for quote in QUOTES:
        if len(text) >= 2 * len(quote) and text.startswith(quote) and text.endswith(quote):
            return text[len(quote) : -len(quote)]
    return text


def is_unicode(text: str) -> bool:
    """Tell whether text has no lone surrogate, which no UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class ParameterDict(dict[str, Any]):
    """A dictionary whose missing key is a prefix: d["llm_"] holds every llm_* without it."""

    def __missing__(self, prefix: str) -> dict[str, Any]:
        """Return the entries whose name begins with the prefix, prefix removed."""
        return {key[len(prefix) :]: self[key] for key in self if key.startswith(prefix)}


class Modelfile:
    """What a bot's author asks of the model for this chat; empty text where nothing was asked."""

    def __init__(
        self,
        override_system_prompt: str = "",
        messages: list[Message] | None = None,
        template: str = "",
        before_prompt: str = "",
        after_prompt: str = "",
        parameters: ParameterDict | None = None,
    ) -> None:
        self.override_system_prompt = override_system_prompt
        self.messages: list[Message] = [] if messages is None else messages
        self.template = template
        self.before_prompt, self.after_prompt = before_prompt, after_prompt
        self.parameters = ParameterDict() if parameters is None else parameters

    @classmethod
    def from_json(cls, text: str | None) -> Modelfile:
        """Parse a JSON list of commands; absent, empty and null are an empty Modelfile.

        Raises ValueError (or RecursionError) when the text is not a JSON list.
        """
        commands = json.loads(text) if text else []
        if commands is None:
            commands = []
        if not isinstance(commands, list):
            raise ValueError("the modelfile is not a JSON list")
        modelfile = cls()
        skipped = [reason for reason in map(modelfile._apply, commands) if reason]
        if skipped:
            reasons = ", ".join(list(dict.fromkeys(skipped))[:REASONS])
            logger.info("skipped %d Modelfile entries: %s", len(skipped), reasons)
        return modelfile

    def _apply(self, command: object) -> str | None:
        """Carry out one command; return why it was skipped if it was."""
        if not isinstance(command, dict):
            return "not an object"
        name, args = command.get("name"), command.get("args")
        if not isinstance(name, str) or not isinstance(args, str):
            return "without name or args"
        if name.startswith("#"):
            return None
        if not is_unicode(name + args):
            raise ValueError("the modelfile holds half a character")
        run = _COMMANDS.get(name.lower())
        return run(self, args) if run else f"unknown command {name[:40]!r}"

    def _system(self, args: str) -> None:
        self.override_system_prompt += extract_text_from_quotes(args)

    def _before_prompt(self, args: str) -> None:
        self.before_prompt += extract_text_from_quotes(args)

    def _after_prompt(self, args: str) -> None:
        self.after_prompt += extract_text_from_quotes(args)

    def _template(self, args: str) -> None:
        self.template = extract_text_from_quotes(args)

    def _message(self, args: str) -> str | None:
        role, _, content = args.strip().partition(" ")
        role, content = extract_text_from_quotes(role).lower(), extract_text_from_quotes(content)
        if role == "system":
            self.override_system_prompt += content
        elif role in ("user", "assistant"):
            self.messages.append({"role": role, "content": content})
        else:
            return "message of an unknown role"
        return None

    def _parameter(self, args: str) -> str | None:
        key, _, value = args.strip().partition(" ")
        if not value.strip():
            return "parameter without a value"
        self.parameters[extract_text_from_quotes(key)] = convert_value(
            extract_text_from_quotes(value)
        )
        return None


_COMMANDS: dict[str, Callable[[Modelfile, str], str | None]] = {
    "system": Modelfile._system,
    "before-prompt": Modelfile._before_prompt,
    "after-prompt": Modelfile._after_prompt,
    "template": Modelfile._template,
    "message": Modelfile._message,
    "parameter": Modelfile._parameter,
    "kuwaparam": Modelfile._parameter,
}
