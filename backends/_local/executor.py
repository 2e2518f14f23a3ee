"""The base of the backends that load a model: options, chat to request, request to answer."""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from backends._local.templates.chat_template import TemplateError
from backends._local.templates.sandbox_pool import SandboxPool
from backends._media.links import side_note, without_data
from kuwa_min import LLMExecutor, Modelfile
from kuwa_min.chat import catalog
from kuwa_min.chat import prompt as prompts
from kuwa_min.chat.chunks import Piece
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.sentence import sentence_of
from kuwa_min.chat.thinking.display import APART
from kuwa_min.errors import AnswerError, StartError, UsageError
from kuwa_min.options import constraint, generation_options
from kuwa_min.options.sentences import OPTION_REASON

from .answers.pieces import pieces
from .answers.splitters import create_splitter
from .constraints.constrainer import Constrainer
from .constraints.sentences import NO_TOKEN_TEXTS
from .engine import Engine
from .model import Model
from .options import DEFAULT_SEED, NO_SEED, add_prompt_options, excess_of
from .prompt_cache import metrics
from .prompt_cache import settings as prompt_cache
from .prompts.encoder import (
    ChatInput,
    EncodedPrompt,
    PromptEncoder,
    RawPromptEncoder,
    SystemFoldingEncoder,
    TextEncoder,
    bos_of,
    supports_system_role,
)
from .prompts.limit import PromptLimit
from .request import Request
from .scheduler import Scheduler, SerialScheduler
from .tokenizing.bounds import Stopped, bounded
from .tokenizing.piece_tokenizer import PieceTokenizer
from .tokenizing.prompt_tokenizer import PromptTokenizer
from .tokenizing.rendering import Template
from .tokenizing.template_variables import NO_VARIABLES, Variables, variables_of, with_tools

logger = logging.getLogger(__name__)

CHECKING = (99, 100)  # percent; done and total, while the model is tried
NO_IMAGES = "llm_enable_multimodal of a Modelfile has no effect: this model reads text only"
OVERRIDE = "--override_chat_template gives another one"


class ModelExecutor(LLMExecutor):
    """Answer with a model of this machine; a subclass defines its options and loads it.

    setup() calls, in this order: prepare(), read_settings(), loader(), and on the engine's thread
    what that returned, then create_scheduler(). All else that computes runs on that thread, too. A
    request's thread runs llm_compute().
    """

    uses_asyncio = False
    table: generation_options.Table = ()
    own_options = ""  # where a model states its own generation options, for --help

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that on-premises models have in common, then the generation options."""
        add_prompt_options(parser)
        prompt_cache.add_options(parser)
        note = f"What {self.own_options} states comes before these defaults."
        generation_options.add_arguments(parser, self.table, note)

    # -- what a subclass defines

    def prepare(self) -> None:
        """Set the environment variables that the library reads when it is imported."""

    def library(self) -> generation_options.Library:
        """Return the generation options that the library has beyond the table; may import it."""
        raise NotImplementedError

    def read_settings(self) -> dict[str, Any]:
        """Return the generation options of requests that ask for no others."""
        return generation_options.settings(self.table, self.args, self.library)

    def loader(self) -> Callable[[], Model]:
        """Check the model's files and import the library; return what loads the model.

        Raises StartError or UsageError saying why it cannot be loaded, as what it returns does. The
        library is imported here because a signal ends an import of the main thread only.
        """
        raise NotImplementedError

    def create_scheduler(self, slots: int) -> Scheduler:
        """Return the scheduler for up to `slots` concurrent sequences of the loaded model."""
        raise NotImplementedError

    def interrupt_loading(self) -> None:
        """End what the engine's thread does to load and check the model; from any thread."""
        self.engine.raise_closed()

    def accepts_images(self) -> bool:
        """Tell whether the model reads images."""
        return False

    def api_features(self) -> Collection[str]:
        """Return what clients of /v1 may ask for."""
        names = {option.name for option in self.table}
        images = {"images"} if self.accepts_images() else set()
        tools = {"tools", "tool_template"} if self.model.offers_functions else {"tools"}
        logprobs = {"logprobs"} if self._offers_logprobs else set()
        return {"raw_prompt"} | tools | images | logprobs | (names & {constraint.JSON_SCHEMA})

    # -- start

    def setup(self) -> None:
        """Read the options, load the model and start its engine."""
        self.prepare()
        self.timeout: float | None = self.args.timeout  # seconds of a request
        self.settings = self.read_settings()
        if excess := excess_of(self.settings):
            raise UsageError(excess)
        constraint.check_settings(self.settings)
        self.cache_settings = prompt_cache.CacheSettings(self.args)
        load = self.loader()
        self.engine = Engine(
            lambda: self._load(load),
            self.interrupt_loading,
            lambda failure: self.model.check_device(failure),
        )
        self.engine.start()
        self.sandbox_pool = SandboxPool()
        self.constrainer = Constrainer(self.model)
        self.constrainer.check(self.settings)
        self.describe(**self.model.info(), engine=self.engine.description)
        if self.cache_settings.cache is not None:
            metrics.report(self, self.cache_settings.cache)

    def _load(self, load: Callable[[], Model]) -> Scheduler:
        """Load and check the model; return its scheduler. Runs on the engine's thread."""
        try:
            self.model = load()
        except TemplateError as error:
            raise StartError(
                f"the chat template cannot be read: {_clause(error)}; {OVERRIDE}"
            ) from None
        self.tokenizer = PieceTokenizer(self.model.tokenizer)
        self.prompt_limit = PromptLimit(self.model, self.tokenizer, int(self.args.limit))
        trusted = ("system", "user") if self.args.parse_special_tokens else ()
        self.prompt_tokenizer = PromptTokenizer(self.tokenizer, trusted)
        try:
            self.supports_system_role = supports_system_role(self.default_encoder())
        except TemplateError as error:
            raise StartError(
                f"the chat template accepts no chat at all: {_clause(error)}; {OVERRIDE}"
            ) from None
        if unknown := self._unknown_stop_tokens(self.settings):
            raise UsageError(f"stop_token_ids: {unknown[0]} is no token; {self._vocabulary}")
        self.engine.check_open()
        self.progress("checking the model")(*CHECKING)
        scheduler = self.create_scheduler(self.args.concurrent_req_limit)
        self._offers_logprobs = not isinstance(scheduler, SerialScheduler)
        return scheduler

    def loading_progress(self) -> Callable[[int, int], None]:
        """Begin the progress bar of loading; return what shows (done, total).

        That is for the engine's thread: it raises Closed once the process is to end.
        """
        show = self.progress(f"loading {self.args.model_path}")
        show(0, 1)

        def report(done: int, total: int) -> None:
            self.engine.check_open()
            show(done, total)

        return report

    # -- a request

    async def llm_compute(
        self, history: list[Message], modelfile: Modelfile
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer's text as it is generated; closing the generator cancels the request."""
        stopped = threading.Event()
        self.on_stop(stopped.set)
        try:
            with bounded(self.prompt_limit.tokens, stopped.is_set), self.engine.expecting():
                request = self.create_request(history, modelfile)
        except Stopped:
            return
        except RuntimeError as error:  # what reads pictures may compute on a GPU, too
            self.engine.examine(error)
            raise
        self.on_stop(request.cancel)
        self.engine.submit(request)
        try:
            for piece in pieces(request, self._token_bytes if request.logprobs else ()):
                yield piece
        finally:
            request.cancel()
            if request.started:
                self.end_answer(request.finish_reason)
                self.count_tokens(
                    read=len(request.prompt_ids),
                    written=request.completion_tokens,
                    cached=request.cached_tokens,
                )

    def create_request(self, history: list[Message], modelfile: Modelfile) -> Request:
        """Make a request of a chat; raises AnswerError if it cannot be answered."""
        asked = generation_options.asked_by(modelfile.parameters, self.table)
        options = self.request_options(asked)
        wanted = constraint.take_constraint(options, asked)
        self._check_options(options, modelfile)
        if generation_options.wants_multimodal(asked) and not self.accepts_images():
            generation_options.warn_once(NO_IMAGES)
        if self.args.reproducible and options.get("seed") in NO_SEED:
            options["seed"] = DEFAULT_SEED
        prompt, notes = self._encode(history, modelfile, self._variables(options, modelfile))
        markers = () if self.uses_template_of(modelfile) else self.model.turn_markers
        request = Request(
            prompt.ids,
            options,
            stop=[*(options["stop"] or ()), *markers],
            stop_token_ids=self._stop_token_ids(options),
            timeout=self.timeout,
            model_inputs=prompt.model_inputs,
            splitter=create_splitter(
                self.model, prompt.ids, history, modelfile, self.args.system_prompt or ""
            ),
            thinking=APART if modelfile.extras.separate_thoughts else options["thinking"],
            constrained=self.constrainer.begin(wanted) if wanted else None,
            logprobs=modelfile.extras.logprobs,
        )
        request.prompt_note = side_note(notes)
        return request

    def _check_options(self, options: dict[str, Any], modelfile: Modelfile) -> None:
        """Raise AnswerError for options that are out of range or not supported."""
        if excess := excess_of(options):
            raise AnswerError(catalog.BAD_OPTION.format(excess))
        if modelfile.extras.logprobs is not None and not self._token_bytes:
            reason = OPTION_REASON.format("logprobs", NO_TOKEN_TEXTS)
            raise AnswerError(catalog.BAD_OPTION.format(reason))

    def _stop_token_ids(self, options: dict[str, Any]) -> set[int]:
        """Return the stop_token_ids that are in the vocabulary; log the first that is not."""
        unknown = self._unknown_stop_tokens(options)
        if unknown:
            generation_options.warn_once(
                f"llm_stop_token_ids of a Modelfile: {unknown[0]} is no token; {self._vocabulary}"
            )
        return {*(options["stop_token_ids"] or ())}.difference(unknown)

    def _variables(self, options: dict[str, Any], modelfile: Modelfile) -> Variables:
        """Return the variables of the chat template, with the functions that may be called."""
        known = None if self.uses_template_of(modelfile) else self.model.template_variables
        control_tokens = self.model.tokenizer.control_tokens
        variables = variables_of(options, self.settings, known, control_tokens)
        if tools := modelfile.extras.tools:
            variables = with_tools(variables, tools, control_tokens)
        return variables

    @cached_property
    def _token_bytes(self) -> Sequence[bytes]:
        """Return the bytes of all tokens, by their ids; none if they are not known."""
        return self.model.tokenizer.token_bytes() or ()

    def request_options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Merge what a Modelfile asks for into the settings; raises AnswerError."""
        return generation_options.for_request(self.table, self.settings, asked, self.library)

    def _unknown_stop_tokens(self, options: dict[str, Any]) -> list[int]:
        """Return the stop_token_ids that the model's vocabulary does not have."""
        size = self.model.vocabulary_size
        return [token for token in options["stop_token_ids"] or () if token >= size]

    @property
    def _vocabulary(self) -> str:
        return f"the model has 0 to {self.model.vocabulary_size - 1}"

    def _encode(
        self, history: list[Message], modelfile: Modelfile, variables: Variables
    ) -> tuple[EncodedPrompt, tuple[str, ...]]:
        """Return the prompt, without the oldest messages if all are too long, and side notes."""
        history = self.prompt_limit.truncate_history(history)
        try:
            encoder, history, notes = self.encoder_for(history, modelfile, variables)
            prompt = prompts.compose(history, modelfile, self.args.system_prompt or "")
            prompt = prompt._replace(examples=prompts.begin_with_user(prompt.examples))
            if self.args.no_system_prompt:
                prompt = prompt._replace(system="")
            encoded = encoder.encode(self.prompt_limit.fit(prompt, encoder))
        except TemplateError as error:
            raise self._answer_error(error, modelfile) from None
        if not encoded.ids:
            raise AnswerError(catalog.NO_INPUT)
        if encoded.model_inputs is None and max(encoded.ids) >= self.model.vocabulary_size:
            logger.error("a prompt has the token %d; %s", max(encoded.ids), self._vocabulary)
            raise AnswerError(catalog.NOT_ACCEPTED)
        return encoded, notes

    def _answer_error(self, error: TemplateError, modelfile: Modelfile) -> AnswerError:
        """Log a failed template, and return what the user reads.

        The message of a Modelfile's own template may quote the chat: it stays out of the log.
        """
        if self.uses_template_of(modelfile):
            logger.info("the template of a Modelfile refused a chat")
            return AnswerError(catalog.BAD_TEMPLATE.format(sentence_of(error)))
        logger.error("the chat template refused a chat: %s", error)
        return AnswerError(catalog.NOT_ACCEPTED)

    # -- prompt encoders

    def uses_template_of(self, modelfile: Modelfile) -> bool:
        """Tell whether a Modelfile's own chat template renders its chats."""
        return bool(modelfile.template) or modelfile.extras.raw_prompt

    def default_encoder(self, variables: Variables = NO_VARIABLES) -> PromptEncoder:
        """Return an encoder with the model's chat template."""
        return TextEncoder(self.model.chat_template, self.prompt_tokenizer, variables)

    def encoder_for(
        self, history: list[Message], modelfile: Modelfile, variables: Variables
    ) -> ChatInput:
        """Return the encoder for a request, and the history in the form that it encodes."""
        if modelfile.extras.raw_prompt:
            bos = bos_of(self.default_encoder(), self.tokenizer, self.model.special_tokens)
            return ChatInput(RawPromptEncoder(self.tokenizer, bos), history)
        history, notes = without_data(history)
        if self.uses_template_of(modelfile):
            template = self.template_of(modelfile)
            encoder: PromptEncoder = TextEncoder(template, self.prompt_tokenizer, variables)
        else:
            encoder = self.default_encoder(variables)
        return ChatInput(self.folding_system(encoder, modelfile), history, notes)

    def template_of(self, modelfile: Modelfile) -> Template:
        """Return the template that renders a Modelfile's chats as text."""
        if not self.uses_template_of(modelfile):
            return self.model.chat_template
        return self.sandbox_pool.open(modelfile.template, **self.model.special_tokens)

    def folding_system(self, encoder: PromptEncoder, modelfile: Modelfile) -> PromptEncoder:
        """Return a request's encoder, folding system prompts if its template has no such role."""
        is_supported = (
            supports_system_role(encoder)
            if self.uses_template_of(modelfile)
            else self.supports_system_role
        )
        return encoder if is_supported else SystemFoldingEncoder(encoder)


def _clause(error: TemplateError) -> str:
    """Return a template's message as a part of a sentence."""
    return str(error).rstrip(".")
