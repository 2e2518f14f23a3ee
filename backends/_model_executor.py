"""Share what the backends of on-premises models have in common: options, prompt, pieces."""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Protocol

from kuwa_min import LLMExecutor, Modelfile, generation, option_values, sentences
from kuwa_min import prompt as prompts
from kuwa_min.errors import AnswerError, StartError, UsageError
from kuwa_min.modelfile import Message

from ._bounded_template import TemplateProcesses
from ._chat_template import ChatTemplate, RefusedTemplate
from ._engine import Batch, Engine
from ._links import side_note
from ._reader import ChatInput, FoldingReader, Prompt, Reader, TextReader, takes_system
from ._request import Request

logger = logging.getLogger(__name__)

LIMIT = 3072  # prompt tokens
ANSWER_SHARE = 8  # of the context, one part in so many is kept for the answer
BLIND = "llm_enable_multimodal of a Modelfile has no effect: this model reads text only"
OVERRIDE = "--override_chat_template gives another one"
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
    "min_new_tokens": 2**31 - 1,
    "epsilon_cutoff": 1,
    "eta_cutoff": 1,
    "seed": 2**32 - 1,
}


class Model(Protocol):
    """What a backend's model can do."""

    context: int  # tokens that prompt and answer may have together
    template: ChatTemplate  # its own, or the one of --override_chat_template
    names: dict[str, Any]  # what templates may use: special tokens, as text

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a chat that a template has written down."""

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of it, for /status."""


class ModelExecutor(LLMExecutor):
    """Answer with a model of this machine; the subclass gives its options and loads it."""

    uses_asyncio = False
    table: generation.Table = ()

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of every on-premises model, then those of this one."""
        group = parser.add_argument_group("options of the prompt")
        add = group.add_argument
        add("--limit", type=option_values.whole(1), default=LIMIT, help="most tokens of a prompt")
        add("--system_prompt", help="system prompt of bots that give none")
        add("--no_system_prompt", action="store_true", help="never send a system prompt")
        add("--override_chat_template", metavar="TEXT|FILE", help="use it instead of the model's")
        add(
            "--timeout",
            type=option_values.positive_seconds,
            metavar="SECONDS",
            help="longest time that an answer may be computed; None: no limit",
        )
        generation.add_arguments(parser, self.table)

    def load(self) -> Model:
        """Load the model; raises StartError or UsageError saying why it cannot be."""
        raise NotImplementedError

    def create_batch(self, slots: int) -> Batch:
        """Return the scheduler for up to `slots` concurrent sequences of the loaded model."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Set what the library reads when it is imported."""

    def library(self) -> generation.Library:
        """Return what the library takes beyond the table; may import it."""
        raise NotImplementedError

    def read_settings(self) -> dict[str, Any]:
        """Return the generation options before a bot asks for others."""
        return generation.settings(self.table, self.args, self.library)

    def setup(self) -> None:
        """Read the options, load the model and start its engine."""
        self.prepare()
        self.settings = self.read_settings()
        if excess := _excess(self.settings):
            raise UsageError(excess)
        try:
            self.model = self.load()
        except RefusedTemplate as error:
            raise StartError(
                f"the chat template cannot be read: {_clause(error)}; {OVERRIDE}"
            ) from None
        try:
            self.takes_system = takes_system(self.own_reader())
        except RefusedTemplate as error:
            raise StartError(
                f"the chat template accepts no chat at all: {_clause(error)}; {OVERRIDE}"
            ) from None
        self.templates = TemplateProcesses()
        batch = self.create_batch(self.args.concurrent_req_limit)
        self.engine = Engine(batch)
        self.describe(**self.model.facts(), engine=batch.description)

    async def llm_compute(
        self, history: list[Message], modelfile: Modelfile
    ) -> AsyncGenerator[str, None]:
        """Yield the answer as it is computed; leaving it stops the computation."""
        request = self.create_request(history, modelfile)
        self.on_stop(request.cancel)
        self.engine.submit(request)
        try:
            while not request.ended:
                if piece := request.take():  # empty at the end
                    yield piece
            if not request.cancelled:
                for note in filter(None, (*request.side_notes, request.prompt_note)):
                    yield note
        finally:
            request.cancel()
            if request.begun:
                self.count_tokens(read=len(request.prompt), written=request.written)

    def create_request(self, history: list[Message], modelfile: Modelfile) -> Request:
        """Make a request of a chat; raises AnswerError if it cannot be answered."""
        asked = modelfile.parameters["llm_"]
        options = generation.for_request(self.table, self.settings, asked, self.library)
        if excess := _excess(options):
            raise AnswerError(sentences.BAD_OPTION.format(excess))
        if generation.wants_multimodal(asked) and not self.sees():
            generation.warn_once(BLIND)
        prompt, notes = self._read(history, modelfile)
        request = Request(
            prompt.ids,
            options,
            stop=options["stop"] or (),
            seconds=self.args.timeout,
            extra=prompt.extra,
        )
        request.prompt_note = side_note(notes)
        return request

    def _read(self, history: list[Message], modelfile: Modelfile) -> tuple[Prompt, tuple[str, ...]]:
        """Return as much of a chat as fits, in tokens, and sentences on what was left out."""
        try:
            reader, history, notes = self.open_chat(history, modelfile)
            prompt = prompts.compose(history, modelfile, self.args.system_prompt or "")
            if self.args.no_system_prompt:
                prompt = prompt._replace(system="")
            chat = prompts.fit(prompt, length=reader.length, limit=self.limit)
            found = reader.prepare(chat)
        except RefusedTemplate as error:
            raise self._refusal(error, modelfile) from None
        if not found.ids:
            raise AnswerError(sentences.NO_INPUT)
        return found, notes

    @property
    def limit(self) -> int:
        """Return how many tokens a prompt may have; the answer needs room, too."""
        context = self.model.context
        return min(self.args.limit, context - max(1, context // ANSWER_SHARE))

    def _refusal(self, error: RefusedTemplate, modelfile: Modelfile) -> AnswerError:
        """Return what the person reads; what a bot's own template says may quote the chat."""
        if modelfile.template:
            logger.info("the template of a Modelfile refused a chat")
            return AnswerError(sentences.BAD_TEMPLATE.format(sentences.sentence_of(error)))
        logger.error("the chat template refused a chat: %s", error)
        return AnswerError(sentences.NOT_ACCEPTED)

    # -- reading chats

    def sees(self) -> bool:
        """Tell whether the model takes pictures."""
        return False

    def own_reader(self) -> Reader:
        """Return what reads chats by the model's template."""
        return TextReader(self.model.template, self.model.tokenize)

    def open_chat(self, history: list[Message], modelfile: Modelfile) -> ChatInput:
        """Return what reads the chats of a request, and its history as that wants it."""
        if not modelfile.template:
            return ChatInput(self.folded(self.own_reader(), self.takes_system), history)
        template = self.templates.open(modelfile.template, **self.model.names)
        reader = TextReader(template, self.model.tokenize)
        return ChatInput(self.folded(reader, takes_system(reader)), history)

    @staticmethod
    def folded(reader: Reader, takes_system: bool) -> Reader:
        """Return a reader that gives its template no system prompt unless it takes one."""
        return reader if takes_system else FoldingReader(reader)


def _excess(options: dict[str, Any]) -> sentences.Sentence | None:
    """Return why an option is too high for the libraries, None if all can be passed on."""
    for name, highest in HIGHEST.items():
        if (options.get(name) or 0) > highest:
            limit = sentences.MUST_BE_AT_MOST.format(highest)
            return sentences.OPTION_REASON.format(name, limit)
    return None


def _clause(error: RefusedTemplate) -> str:
    """Return what a template says as a part of a sentence."""
    return str(error).rstrip(".")


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
