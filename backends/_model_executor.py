"""Share what the backends of on-premises models have in common: options, prompt, pieces."""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Protocol

from kuwa_min import LLMExecutor, Modelfile, generation
from kuwa_min import prompt as prompts
from kuwa_min.errors import AnswerError, StartError, UsageError
from kuwa_min.modelfile import Message

from ._engine import Engine, Request

logger = logging.getLogger(__name__)

LIMIT = 3072  # prompt tokens
ANSWER_SHARE = 8  # of the context, one part in so many is kept for the answer
LOOK_SECONDS = 0.02  # between two looks whether the chat was stopped while the model is silent
FULL = prompts.SIDE_NOTE.format("The answer was cut off: the model's context of {} tokens is full.")
PROBE = "kuwa-system-probe"
HIGHEST: dict[str, float] = {  # what option tables cannot say; the lowest values stand in them
    "top_p": 1,
    "min_p": 1,
    "typical_p": 1,
    "temperature": 100,
    "frequency_penalty": 2,
    "presence_penalty": 2,
    "mirostat_mode": 2,
    "top_k": 2**31 - 1,
    "max_tokens": 2**31 - 1,
    "max_new_tokens": 2**31 - 1,
    "no_repeat_ngram_size": 2**31 - 1,
    "seed": 2**32 - 1,
}


class Model(Protocol):
    """What a backend's model can do; `compute` is called on the engine's thread only."""

    context: int  # tokens that prompt and answer may have together

    def render(self, chat: list[Message]) -> list[int]:
        """Return the tokens of a chat; raises RefusedTemplate if the template refuses it."""

    def compute(self, request: Request) -> None:
        """Say the answer's text to the request until it is over."""


class RefusedTemplate(Exception):
    """Report that a chat template does not accept the messages, with its own words."""


class ModelExecutor(LLMExecutor):
    """Answer with a model of this machine; the subclass gives its options and loads it."""

    uses_asyncio = False
    table: generation.Table = ()

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of every on-premises model, then those of this one."""
        group = parser.add_argument_group("options of the prompt")
        add = group.add_argument
        add("--limit", type=_at_least_one, default=LIMIT, help="most tokens of a prompt")
        add("--system_prompt", help="system prompt of bots that give none")
        add("--no_system_prompt", action="store_true", help="never send a system prompt")
        add("--override_chat_template", metavar="TEXT|FILE", help="use it instead of the model's")
        add("--stop", nargs="+", default=[], metavar="WORD", help="end an answer before this text")
        add(
            "--timeout",
            type=_seconds,
            metavar="SECONDS",
            help="longest time that an answer may be computed; None: no limit",
        )
        generation.add_arguments(parser, self.table)

    def load(self) -> Model:
        """Load the model; raises StartError or UsageError saying why it cannot be."""
        raise NotImplementedError

    def read_settings(self) -> dict[str, Any]:
        """Return the generation options before a bot asks for others."""
        return generation.settings(self.table, self.args)

    def setup(self) -> None:
        """Read the options, load the model and start its engine."""
        self.settings = self.read_settings()
        self._check(self.settings, UsageError, "{}")
        self.model = self.load()
        self.takes_system = self._takes_system()
        self.engine = Engine(self.model.compute)

    async def llm_compute(
        self, history: list[Message], modelfile: Modelfile
    ) -> AsyncGenerator[str, None]:
        """Yield the answer as it is computed; leaving it stops the computation."""
        request = self.create_request(history, modelfile)
        self.engine.submit(request)
        try:
            while not request.ended:
                piece = request.take(LOOK_SECONDS)
                if piece:
                    yield piece
                else:
                    await self.pause(0)  # where a stop arrives
        finally:
            request.cancel()

    def create_request(self, history: list[Message], modelfile: Modelfile) -> Request:
        """Make a request of a chat; raises AnswerError if it cannot be answered."""
        if modelfile.template:
            logger.info("the Modelfile's template is not used; see --override_chat_template")
        asked = modelfile.parameters["llm_"]
        options = generation.for_request(self.table, self.settings, asked)
        self._check(options, AnswerError, "[The option llm_{}.]")
        prompt = prompts.compose(history, modelfile, self.args.system_prompt or "")
        if self.args.no_system_prompt:
            prompt = prompt._replace(system="")
        tokens = self._tokens_that_fit(prompt)
        return Request(tokens, options, stop=self.args.stop, seconds=self.args.timeout)

    def _tokens_that_fit(self, prompt: prompts.Prompt) -> list[int]:
        context = self.model.context
        limit = min(self.args.limit, context - max(1, context // ANSWER_SHARE))
        try:
            chat = prompts.fit(prompt, length=lambda one: len(self._render(one)), limit=limit)
            return self._render(chat)
        except RefusedTemplate as error:
            logger.error("the chat template refused a chat: %s", error)
            raise AnswerError(prompts.NOT_ACCEPTED) from None

    def _render(self, chat: list[Message]) -> list[int]:
        return self.model.render(chat if self.takes_system else prompts.fold_system(chat))

    def _takes_system(self) -> bool:
        """Tell whether the template shows a system prompt, instead of refusing or ignoring it."""
        user = {"role": "user", "content": "?"}
        try:
            plain = self.model.render([user])
        except RefusedTemplate as error:
            raise StartError(
                f"the chat template accepts no chat at all: {error}; "
                "--override_chat_template gives another one"
            ) from None
        try:
            both = self.model.render([{"role": "system", "content": PROBE}, user])
        except RefusedTemplate:
            return False
        return len(both) > len(plain)

    @staticmethod
    def _check(options: dict[str, Any], kind: type[Exception], sentence: str) -> None:
        """Refuse what is too high before it reaches a library."""
        for name, highest in HIGHEST.items():
            if (options.get(name) or 0) > highest:
                raise kind(sentence.format(f"{name} must be at most {highest}"))


def chat_template(text_or_file: str | None) -> str | None:
    """Return the template of --override_chat_template; raises UsageError for an unreadable file."""
    if not text_or_file or "{" in text_or_file:
        return text_or_file or None
    try:
        return Path(text_or_file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--override_chat_template {text_or_file} is no template, and no file that can be "
            f"read: {error}"
        ) from None


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is needed, not {text!r}")
    return value
