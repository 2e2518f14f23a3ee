"""Share what the backends of services have in common: options, keys, prompt, retries, languages."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any, NamedTuple

from kuwa_min import LLMExecutor, Modelfile, generation, sentences
from kuwa_min import prompt as prompts
from kuwa_min.errors import AnswerError
from kuwa_min.modelfile import Message

from . import _api_key, _attachments, _estimate, _file_types, _links
from ._api_key import Key
from ._attachments import Attachment, AttachmentReader, Chat
from ._line import Line
from ._refusal import Again, ContextFull, ImageRefused, Passing, Refusal, wait_before

logger = logging.getLogger(__name__)

LONGEST_NAME = 200  # characters of a model's name


class Question(NamedTuple):
    """One request to a service; `stream` of a backend sends it."""

    model: str
    prompt: prompts.Prompt  # all that was said
    messages: list[Message]  # of it, as much as fits; a sign stands where each file belongs
    files: dict[int, Attachment]
    options: dict[str, Any]
    key: Key
    say: Callable[[str], str]  # puts a sentence of kuwa_min.sentences into the person's language
    notes: tuple[str, ...] = ()  # sentences on links that were not read

    def note(self, sentence: str) -> str:
        """Return a side note: what the person reads beside the answer."""
        return prompts.SIDE_NOTE.format(self.say(sentence))

    def within(self, limit: int) -> Question:
        """Return the question with as much of its chat as fits; raises AnswerError if none does."""
        length = _estimate.chat_tokens
        return self._replace(messages=prompts.fit(self.prompt, length=length, limit=limit))

    def shortened(self, share: float | None) -> Question:
        """Return it without the oldest exchange at least; or about this share of its tokens."""
        length = _estimate.chat_tokens(self.messages)
        return self.within(min(length - 1, int(length * share) if share else length))

    def side_note(self) -> str:
        """Return the side note on links that were not read; empty if there were none."""
        return _links.side_note(self.notes, self.say)

    def with_fewer_files(self) -> Question | None:
        """Return it with the last message's files only, or the last of those; None: it has one."""
        signs = _links.numbers(self.prompt.history[-1]["content"])
        last = [number for number in signs if number in self.files]
        if len(self.files) > len(last):
            return self._with_files(last)
        if len(last) > 1:
            kept = self._with_files(last[-1:])
            return kept._replace(notes=(*self.notes, sentences.LAST_FILE_ONLY))
        return None

    def _with_files(self, numbers: list[int]) -> Question:
        texts = {one: file.text for one, file in self.files.items() if one not in numbers}
        kept = _links.restored(self.prompt.history, texts)
        return self._replace(
            files={one: self.files[one] for one in numbers},
            prompt=self.prompt._replace(history=kept),
            messages=_links.restored(self.messages, texts),
        )


class CloudExecutor(LLMExecutor):
    """Answer with a model that a service runs; the subclass says how it is asked."""

    uses_asyncio = False
    table: generation.Table = ()
    key_variable = ""  # of the environment, in which the operator's key may stand
    file_types = _file_types.IMAGES  # MIME types that the service takes

    # -- what subclasses give

    def connect(self) -> None:
        """Make the client; raises StartError or UsageError. The service need not be there yet."""
        raise NotImplementedError

    def library(self) -> generation.Library:
        """Return what the service's SDK takes beyond the table; may import it."""
        raise NotImplementedError

    def key(self, modelfile: Modelfile) -> Key:
        """Return the key for a chat; raises AnswerError if there is none and one is needed."""
        raise NotImplementedError

    def limit(self, model: str, options: dict[str, Any]) -> int | None:
        """Return how many tokens a prompt may have; None: as many as the service takes."""
        raise NotImplementedError

    def stream(self, question: Question) -> Iterator[str]:
        """Ask the service; yield the answer's text and side notes, in pieces that are not empty.

        It may block: the thread's line (_line.current()) holds what is waited for, and is cut when
        the chat is stopped. What the service refuses is raised as a Refusal.
        """
        raise NotImplementedError

    # -- the life of the process

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of every service, then those of this one."""
        group = parser.add_argument_group("options of the service")
        _api_key.add_arguments(group, self.key_variable)
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
        _attachments.add_arguments(add)
        generation.add_arguments(parser, self.table)

    def setup(self) -> None:
        """Read options and key, make the client."""
        self.settings = generation.settings(self.table, self.args, self.library)
        self.operator_key = _api_key.read(self.args, self.key_variable)
        self.keep_secret(self.operator_key.text)
        self.attachments = AttachmentReader(self.args, self.file_types, self.args.max_attachments)
        self.connect()

    async def llm_compute(
        self, history: list[Message], modelfile: Modelfile
    ) -> AsyncGenerator[str, None]:
        """Yield the answer as it comes; leaving it ends the request."""
        chinese = sentences.reads_chinese(modelfile.parameters.get("_lang"))
        say = sentences.translate if chinese else str
        line = Line()
        self.on_stop(line.cut)
        begun = False
        try:
            with line:
                question, attempt = self.create_question(history, modelfile, say), 1
            while not begun:
                try:
                    with line, contextlib.closing(self.stream(question)) as pieces:
                        for piece in pieces:
                            begun = True
                            yield piece
                    break
                except Refusal as refusal:
                    if line.is_cut:
                        return
                    logger.warning("%s: %s", question.model, refusal)
                    if begun:
                        raise AnswerError(refusal.sentence) from None
                    question, wait = self._after(refusal, question, attempt)
                attempt += wait > 0
                await self.pause(wait)
            if not begun:
                raise AnswerError(sentences.NO_ANSWER)
            if note := question.side_note():
                yield note
        except AnswerError as error:
            raise AnswerError(f"\n{say(str(error))}" if begun else say(str(error))) from None

    # -- from chat to question

    def create_question(
        self, history: list[Message], modelfile: Modelfile, say: Callable[[str], str] = str
    ) -> Question:
        """Make a request of a chat; raises AnswerError if it cannot be asked."""
        asked = dict(modelfile.parameters["llm_"])
        model = self._model(asked.pop("model", None))
        options = generation.for_request(self.table, self.settings, asked, self.library)
        if modelfile.template:
            logger.info("the Modelfile's template is not used: the service has its own")
        key = self.key(modelfile)
        chat = Chat(history, {})
        if self._sends_files(modelfile.parameters["llm_"]):
            chat = self.attachments.read(history)
        prompt = prompts.compose(chat.history, modelfile, self.args.system_prompt or "")
        if self.args.no_system_prompt:
            prompt = prompt._replace(system="")
        question = Question(model, prompt, [], chat.files, options, key, say, chat.notes)
        limit = self.limit(model, options)
        return question.within(sys.maxsize if limit is None else limit)

    def _sends_files(self, asked: Mapping[str, Any]) -> bool:
        """Tell whether a chat's files are sent; raises AnswerError if a bot may not ask for it."""
        wanted = generation.wants_multimodal(asked)
        if wanted and not (self.args.multimodal or self.args.allow_multimodal):
            raise AnswerError(sentences.NO_MULTIMODAL)
        return bool(self.args.multimodal) if wanted is None else wanted

    def _model(self, asked: object) -> str:
        """Return the model's name: what the bot asks for, which may look like a number, or ours."""
        name = str(self.args.model if asked is None else asked).strip()
        if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise AnswerError(sentences.BAD_OPTION.format("model must be a name"))
        return name

    # -- what becomes of a refusal

    def _after(self, refusal: Refusal, question: Question, attempt: int) -> tuple[Question, float]:
        """Return what is to be asked next, in how many seconds; raises AnswerError if nothing."""
        if isinstance(refusal, Again):
            return question, 0
        if isinstance(refusal, ContextFull):
            return question.shortened(refusal.share), 0
        if isinstance(refusal, ImageRefused):
            fewer = question.with_fewer_files()
            if fewer is not None:
                return fewer, 0
        wait = wait_before(attempt, refusal) if isinstance(refusal, Passing) else None
        if wait is None:
            raise AnswerError(refusal.sentence)
        return question, wait


def is_near(host: str) -> bool:
    """Tell whether a host is this machine, so that nobody listens on the way."""
    return host in ("localhost", "::1") or host.startswith("127.")
