"""Parse the Modelfile that comes with a chat: a JSON list of {"name", "args"}."""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from kuwa_min.log import redaction

from . import bounded_json
from .bounded_json import TooManyValues
from .modelfile_text import convert_value as convert_value
from .modelfile_text import extract_text_from_quotes as extract_text_from_quotes
from .modelfile_text import is_unicode as is_unicode
from .modelfile_text import read_prompt, read_value, replace_surrogates
from .request_extras import NO_EXTRAS, RequestExtras

logger = logging.getLogger(__name__)

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}

BOM = "\ufeff"  # a byte order mark, before the first command of a Modelfile saved on Windows
MAX_COMMANDS = 10_000
MAX_REASONS = 5  # distinct reasons in one log line
# Commands whose arguments are appended -> the attribute of the Modelfile.
APPENDED = {
    "system": "override_system_prompt",
    "before-prompt": "before_prompt",
    "after-prompt": "after_prompt",
    "input-prefix": "input_prefix",
    "input-suffix": "input_suffix",
    "output-prefix": "output_prefix",
    "output-suffix": "output_suffix",
}
STOP_WORDS = ("llm_stop", "stop")
# Their values are texts, also "2." and "true".
TEXTS = (*STOP_WORDS, "llm_regex", "regex", "llm_grammar", "grammar")
REPEATED = (*STOP_WORDS, "llm_stop_token_ids", "stop_token_ids")
BOTS = {  # commands for agents -> the attribute; other executors ignore them
    "from": "process_bot",
    "process-bot": "process_bot",
    "input-bot": "input_bot",
    "output-bot": "output_bot",
}


class ParameterDict(dict[str, Any]):
    """A dictionary in which a missing key is a prefix: d["llm_"] holds every llm_* without it."""

    def __missing__(self, prefix: str) -> dict[str, Any]:
        """Return the entries whose key begins with the prefix, without the prefix."""
        return {key[len(prefix) :]: self[key] for key in self if key.startswith(prefix)}


class ScriptSyntaxError(BaseException):
    """Report an invalid script; part of Kuwa's interface, not raised here."""

    message = ""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Script:
    """The order in which an agent calls its bots: a version, then one symbol per step."""

    VERSION_MAGIC = "000"
    INPUT_BOT_SYMBOL = "I"
    PROCESS_BOT_SYMBOL = "P"
    OUTPUT_BOT_SYMBOL = "O"
    IDENTITY_BOT_SYMBOL = ";"
    CONDITIONAL_FORWARD_JUMP_SYMBOL = "["
    CONDITIONAL_BACKWARD_JUMP_SYMBOL = "]"
    VALID_SYMBOLS = frozenset("IPO;[]")
    DEFAULT_CONTENT = "IPO"
    DEFAULT = VERSION_MAGIC + DEFAULT_CONTENT

    @staticmethod
    def get_content(script: str) -> str | None:
        """Return the symbols of a script without its version, None if it is invalid."""
        found = re.fullmatch(r"000([IPO;\[\]]*)", script.strip())
        balanced = found and found[1].count("[") == found[1].count("]")
        return found[1] if found and balanced else None

    @staticmethod
    def validate_syntax(script: str) -> bool:
        """Tell whether a script has the supported version, valid symbols, and as many [ as ]."""
        return Script.get_content(script) is not None


class Modelfile:
    """The settings of a bot for this chat: prompts, examples, parameters; empty if not given."""

    def __init__(
        self,
        override_system_prompt: str = "",
        messages: list[Message] | None = None,
        template: str = "",
        before_prompt: str = "",
        after_prompt: str = "",
        parameters: ParameterDict | None = None,
        *,
        process_bot: str | None = None,
        input_bot: str | None = None,
        output_bot: str | None = None,
        input_prefix: str = "",
        input_suffix: str = "",
        output_prefix: str = "",
        output_suffix: str = "",
        script: str = Script.DEFAULT_CONTENT,
    ) -> None:
        self.override_system_prompt = override_system_prompt
        self.messages: list[Message] = [] if messages is None else messages
        self.template = template
        self.before_prompt, self.after_prompt = before_prompt, after_prompt
        self.process_bot, self.input_bot, self.output_bot = process_bot, input_bot, output_bot
        self.input_prefix, self.input_suffix = input_prefix, input_suffix
        self.output_prefix, self.output_suffix = output_prefix, output_suffix
        self.script = script
        self.extras: RequestExtras = NO_EXTRAS
        self.parameters = ParameterDict() if parameters is None else parameters

    @classmethod
    def from_json(cls, text: str | None) -> Modelfile:
        """Parse a JSON list of commands; None, empty text and null give an empty Modelfile.

        Raises ValueError or RecursionError if the text is no JSON list, TooManyValues for more
        than MAX_COMMANDS.
        """
        builder = _Builder(cls())
        for command in _parse_commands(text):
            builder.apply(command)
        return builder.finish()


def _parse_commands(text: str | None) -> list[object]:
    """Return the commands in a JSON text; PHP may encode a list as an object."""
    commands = bounded_json.loads(text) if text and text.strip() else []
    if isinstance(commands, dict):
        commands = [commands] if "name" in commands else list(commands.values())
    if commands and not isinstance(commands, list):
        raise ValueError("the modelfile is not a JSON list")
    if commands and len(commands) > MAX_COMMANDS:
        raise TooManyValues
    return commands or []


class _Builder:
    """Apply commands to a Modelfile; texts are joined at the end, in linear time."""

    def __init__(self, modelfile: Modelfile) -> None:
        self._modelfile = modelfile
        self._texts: dict[str, list[str]] = defaultdict(list)
        self._unknown: list[str] = []
        self._skipped: list[str] = []

    def apply(self, command: object) -> None:
        """Apply one command, or note why it was skipped."""
        if not isinstance(command, dict):
            self._skipped.append("not an object")
            return
        name, args = command.get("name"), _to_text(command.get("args"))
        if not isinstance(name, str) or args is None:
            self._skipped.append("without name or args")
            return
        name = replace_surrogates(name).replace(BOM, "").strip().lower()
        if name and not name.startswith("#"):
            self._run(name, replace_surrogates(args))

    def _run(self, name: str, args: str) -> None:
        if name in APPENDED:
            self._texts[APPENDED[name]].append(read_prompt(args))
        elif name in BOTS:
            setattr(self._modelfile, BOTS[name], extract_text_from_quotes(args))
        elif name in _COMMANDS:
            _COMMANDS[name](self, args)
        else:
            self._unknown.append(name)

    def _template(self, args: str) -> None:
        self._modelfile.template = read_prompt(args)

    def _message(self, args: str) -> None:
        role, content = _split_word(args)
        role, content = role.strip("\"'").lower(), read_prompt(content)
        if role == "system":
            self._texts["override_system_prompt"].append(content)
        elif role in ("user", "assistant"):
            self._modelfile.messages.append({"role": role, "content": content})
        else:
            self._skipped.append("message of an unknown role")

    def _parameter(self, args: str) -> None:
        key, text = _split_word(args)
        value = read_value(text)
        if value or text.startswith(("'", '"')):
            self._set(key.strip("\"'"), value)
        else:
            self._skipped.append("parameter without a value")

    def _set(self, key: str, text: str) -> None:
        """Set a parameter; a repeated stop word makes a list, as in Ollama's Modelfiles."""
        parameters, value = self._modelfile.parameters, convert_value(text)
        if key in TEXTS and value is not None:
            value = text
        before = parameters.get(key)
        if key not in REPEATED or before is None or value is None:
            parameters[key] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            parameters[key] = [before, value]

    def _script(self, args: str) -> None:
        content = Script.get_content(extract_text_from_quotes(args))
        if content is None:
            self._skipped.append("script with a mistake")
        self._modelfile.script = Script.DEFAULT_CONTENT if content is None else content

    def finish(self) -> Modelfile:
        """Join the texts, log the skipped commands, and return the Modelfile."""
        for attribute, texts in self._texts.items():
            setattr(self._modelfile, attribute, "".join(texts))
        if self._unknown:
            names = redaction.content(", ".join(_distinct(self._unknown)))
            logger.debug("skipped %d unknown Modelfile commands: %s", len(self._unknown), names)
        if self._skipped:
            reasons = ", ".join(_distinct(self._skipped))
            logger.info("skipped %d Modelfile entries: %s", len(self._skipped), reasons)
        return self._modelfile


_COMMANDS: dict[str, Callable[[_Builder, str], None]] = {
    "template": _Builder._template,
    "message": _Builder._message,
    "parameter": _Builder._parameter,
    "kuwaparam": _Builder._parameter,
    "script": _Builder._script,
}


def _to_text(args: object) -> str | None:
    """Return arguments as text: numbers and booleans as in JSON; None for other types."""
    if isinstance(args, str):
        return args
    return json.dumps(args) if isinstance(args, int | float) else None


def _split_word(args: str) -> tuple[str, str]:
    """Split text into the first word and the rest after the white space."""
    word, rest = [*args.split(None, 1), "", ""][:2]
    return word, rest


def _distinct(texts: list[str]) -> list[str]:
    """Return the first distinct texts, for a line of the log."""
    return list(dict.fromkeys(texts))[:MAX_REASONS]
