"""The base of the backends that call a service: options, API key, prompt, files and retries."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Collection, Generator, Mapping
from typing import Any

from backends._http.cancellation import CancelScope
from backends._media import attachments
from backends._media.attachments import AttachmentReader, ResolvedChat
from backends._media.fetch_policy import policy
from backends._media.file_types import IMAGE_TYPES
from kuwa_min import LLMExecutor, Modelfile
from kuwa_min.chat import catalog
from kuwa_min.chat import prompt as prompts
from kuwa_min.chat.chunks import Piece
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.sentence import ON_NEW_LINE, sentence_of
from kuwa_min.errors import AnswerError
from kuwa_min.log.redaction import content
from kuwa_min.options import constraint, generation_options
from kuwa_min.options.sentences import MUST_BE_NAME, OPTION_REASON

from . import api_key
from .api_key import Key
from .errors import (
    ContextLengthExceeded,
    ImageRejected,
    RetryableError,
    RetryModified,
    ServiceError,
    backoff_seconds,
)
from .request import AnswerUsage, CompletionRequest

logger = logging.getLogger(__name__)

LONGEST_NAME = 200  # characters of a model's name
MOST_TOKENS = 10**9  # of one answer; a counter that a service spoils stays so


class CloudExecutor(LLMExecutor):
    """Answer with a model that a service runs.

    The subclass sends the requests: setup() calls connect() once, then each chat's thread calls
    key(), prompt_limit() and, once per attempt, stream().
    """

    uses_asyncio = False
    table: generation_options.Table = ()
    key_variable = ""  # of the environment, for the operator's key
    file_types = IMAGE_TYPES  # MIME types that the service takes

    # -- for subclasses to implement

    def connect(self) -> None:
        """Create the client, at the start; raises StartError or UsageError.

        The service need not be reachable yet.
        """
        raise NotImplementedError

    def library(self) -> generation_options.Library:
        """Return the parameters that the service's SDK takes beyond the table; may import it."""
        raise NotImplementedError

    def key(self, modelfile: Modelfile) -> Key:
        """Return the key for a chat; raises AnswerError if a key is needed and missing."""
        raise NotImplementedError

    def prompt_limit(self, model: str, options: dict[str, Any]) -> int | None:
        """Return how many tokens a prompt may have; None: unknown."""
        raise NotImplementedError

    def stream(self, request: CompletionRequest) -> Generator[Piece, None, None]:
        """Send a request; yield text and side notes, in pieces that are not empty, and progress.

        Runs on the chat's thread and may block; the thread's cancel scope, current_scope(), is
        cancelled when the chat is stopped. Raises ServiceError.
        """
        raise NotImplementedError

    # -- for subclasses to call

    def count_usage(self, usage: AnswerUsage) -> None:
        """Add the usage that a service reports for one answer to the metrics, if it can be true."""
        read, written, cached = (
            count if 0 <= count <= MOST_TOKENS else 0
            for count in (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        )
        self.end_answer("length" if usage.is_cut else "stop")
        self.count_tokens(read=read, written=written, cached=min(cached, read))

    # -- the life of the process

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of every service, then those of this one."""
        group = parser.add_argument_group("options of the service")
        api_key.add_arguments(group, self.key_variable)
        add = parser.add_argument_group("options of the prompt").add_argument
        add("--system_prompt", help="system prompt of bots that give none")
        add("--no_system_prompt", action="store_true", help="never send a system prompt")
        group = parser.add_argument_group("options of pictures and files")
        add = group.add_argument
        add(
            "--multimodal",
            action="store_true",
            help="send pictures and files that chats link to, unless a bot says "
            "llm_enable_multimodal false",
        )
        add(
            "--allow_multimodal",
            action="store_true",
            help="send them for bots that say llm_enable_multimodal true; without this and "
            "--multimodal such bots are refused",
        )
        attachments.add_arguments(add)
        generation_options.add_arguments(parser, self.table)

    def api_features(self) -> Collection[str]:
        """Return what clients of /v1 may ask for."""
        has_files = self.args.multimodal or self.args.allow_multimodal
        names = {option.name for option in self.table}
        return {"tools"} | ({"images"} if has_files else set()) | (names & {constraint.JSON_SCHEMA})

    def setup(self) -> None:
        """Read options and key, create the client."""
        self.settings = generation_options.settings(self.table, self.args, self.library)
        constraint.check_settings(self.settings)
        self.operator_key = api_key.read(self.args, self.key_variable)
        self.keep_secret(self.operator_key.text)
        self.attachments = AttachmentReader(
            policy(self.args), self.file_types, self.args.max_attachments
        )
        self.connect()

    async def llm_compute(
        self, history: list[Message], modelfile: Modelfile
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it comes; closing the generator cancels the request."""
        scope = CancelScope()
        self.on_stop(scope.cancel)
        begun = False
        try:
            with scope:
                request, attempt = self.create_request(history, modelfile), 1
            while not begun:
                try:
                    with scope, contextlib.closing(self.stream(request)) as pieces:
                        for piece in pieces:
                            begun = begun or isinstance(piece, str)
                            yield piece
                    break
                except ServiceError as error:
                    if scope.is_cancelled:
                        return
                    logger.warning("%s: %s", self._loggable(request.model), error)
                    if begun:
                        raise AnswerError(error.sentence) from None
                    request, wait = _next_attempt(error, request, attempt)
                    attempt += isinstance(error, RetryableError)
                await self.pause(wait)
            if not begun:
                raise AnswerError(catalog.NO_ANSWER)
            if note := request.attachment_note():
                yield note
        except AnswerError as error:
            if not begun:
                raise
            sentence = sentence_of(error)
            raise AnswerError(ON_NEW_LINE.format(sentence)) from None

    # -- from chat to request

    def create_request(self, history: list[Message], modelfile: Modelfile) -> CompletionRequest:
        """Return the request for a chat; blocks while its files are fetched. Raises AnswerError."""
        asked = generation_options.asked_by(modelfile.parameters, self.table)
        model = self._model(asked.pop("model", None))
        options = generation_options.for_request(self.table, self.settings, asked, self.library)
        wanted = constraint.take_constraint(options, asked)
        if modelfile.template:
            logger.info("the Modelfile's template is not used: the service has its own")
        key = self.key(modelfile)
        chat = ResolvedChat(history, {})
        if self._sends_files(modelfile.parameters["llm_"]):
            chat = self.attachments.read(history)
        prompt = prompts.compose(chat.history, modelfile, self.args.system_prompt or "")
        if self.args.no_system_prompt:
            prompt = prompt._replace(system="")
        apart = modelfile.extras.separate_thoughts
        request = CompletionRequest(
            model, prompt, [], chat.files, options, key, chat.notes, apart, wanted
        )
        limit = self.prompt_limit(model, options)
        return request.fitted(sys.maxsize if limit is None else limit)

    def _sends_files(self, asked: Mapping[str, Any]) -> bool:
        """Tell whether files are sent; raises AnswerError for a bot that must not ask for it."""
        wanted = generation_options.wants_multimodal(asked)
        if wanted and not (self.args.multimodal or self.args.allow_multimodal):
            raise AnswerError(catalog.NO_MULTIMODAL)
        return bool(self.args.multimodal) if wanted is None else wanted

    def _loggable(self, model: str) -> str:
        """Return a model's name for the log; that of a bot is its author's text."""
        return model if model == self.args.model else f"a bot's model {content(model)}"

    def _model(self, asked: object) -> str:
        """Return the model that the bot asks for, whose name may look like a number, or ours."""
        name = str(self.args.model if asked is None else asked).strip()
        if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise AnswerError(
                catalog.BAD_OPTION.format(OPTION_REASON.format("model", MUST_BE_NAME))
            )
        return name


def _next_attempt(
    error: ServiceError, request: CompletionRequest, attempt: int
) -> tuple[CompletionRequest, float]:
    """Decide the retry: the next request and its delay in seconds; raises AnswerError if none."""
    if isinstance(error, RetryModified):
        return request, 0
    if isinstance(error, ContextLengthExceeded):
        return request.truncated(error.share), 0
    if isinstance(error, ImageRejected):
        fewer = request.with_fewer_files()
        if fewer is not None:
            return fewer, 0
    delay = backoff_seconds(attempt, error) if isinstance(error, RetryableError) else None
    if delay is None:
        raise AnswerError(error.sentence)
    return request, delay
