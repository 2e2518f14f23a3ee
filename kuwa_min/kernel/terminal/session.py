"""`chat`: a conversation at the terminal, with commands that begin with /."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from kuwa_min.chat.sentence import sentence_of
from kuwa_min.errors import KuwaError, UsageError

from .answer import FAILED, LENGTH, Answer, ServerError
from .clients import Client, user_language
from .conversation import Conversation
from .line_input import line_editing, read_message
from .options import choose_name, connect, create_parser
from .screen import Screen
from .sentences import (
    ANSWER_STOPPED,
    BEGUN,
    CUT,
    EMPTY_ANSWER,
    ERROR_AND_RETRY,
    ERROR_LINE,
    FAILED_ANSWER,
    HOW_TO_CHAT,
    HOW_TO_END,
    NEW_CONVERSATION,
    NO_COMMAND,
    NO_FILE_NAME,
    NO_QUESTION,
    SAVED,
    SYSTEM_CLEARED,
    SYSTEM_SET,
    THOUGHTS_HIDDEN,
    THOUGHTS_SHOWN,
)
from .visible_text import tolerate_encodings


def run(program: str, rest: list[str]) -> None:
    """Chat until Ctrl-D; raises KuwaError for what cannot begin."""
    parser = create_parser(program, "Chat at the terminal.", HOW_TO_CHAT)
    parser.add_argument(
        "--history_file",
        metavar="FILE",
        help="keep what is typed in this file, which only you can read (default: keep nothing)",
    )
    parser.add_argument(
        "--hide_thoughts",
        action="store_true",
        help="say that a model thinks, and not what; /thoughts shows it again",
    )
    args = parser.parse_args(rest)
    tolerate_encodings()
    client = connect(args)
    name = choose_name(client, args.access_code)
    screen = Screen(sys.stdout, user_language(), shows_thoughts=not args.hide_thoughts)
    session = Session(client, name, screen, args.system)
    session.screen.say(BEGUN.format(name, args.base_url or args.kernel_url))
    with line_editing(args.history_file):
        session.run(input)


class Session:
    """One chat at a terminal."""

    def __init__(self, client: Client, name: str, screen: Screen, system: str = "") -> None:
        self._client, self._name, self.screen = client, name, screen
        self._conversation = Conversation(system)
        self._commands: dict[str, Callable[[str], None]] = {
            "/retry": self._retry,
            "/system": self._set_system,
            "/new": self._begin_anew,
            "/save": self._save,
            "/thoughts": self._toggle_thoughts,
            "/help": lambda _: self.screen.say(HOW_TO_CHAT),
        }

    def run(self, read: Callable[[str], str]) -> None:
        """Read messages until the end of the input; read: prompts for a line, as `input`."""
        while True:
            try:
                message = read_message(read)
            except KeyboardInterrupt:
                self.screen.say("")
                self.screen.say(HOW_TO_END)
                continue
            except EOFError:
                self.screen.say("")
                return
            with contextlib.suppress(KeyboardInterrupt):
                self.take(message)

    def take(self, message: str) -> None:
        """Do what a message asks: a command, or a question."""
        message = message.encode("utf-8", "replace").decode()
        word, _, rest = message.strip().partition(" ")
        try:
            if message.startswith("//"):
                self._ask(message[1:])
            elif not word.startswith("/"):
                if word:
                    self._ask(message)
            elif word in self._commands:
                self._commands[word](rest.strip())
            else:
                raise UsageError(NO_COMMAND.format(word))
        except KuwaError as error:
            self.screen.say(ERROR_LINE.format(sentence_of(error)))

    def _ask(self, question: str) -> None:
        """Show an answer as it comes; Ctrl-C stops it, and what has come stays in the chat.

        A failed answer and its question are not sent with the next one.
        """
        answer, problem = Answer(), ""
        messages = self._conversation.ask(question)
        self.screen.begin()
        events = self._client.answer(self._name, messages, self._conversation.system)
        try:
            with contextlib.closing(events):
                for event in events:
                    answer.add(event)
                    self.screen.show(event)
        except KeyboardInterrupt:
            problem = ANSWER_STOPPED
        except ServerError as error:
            problem = ERROR_AND_RETRY.format(sentence_of(error))
        if answer.text and answer.finish_reason != FAILED:
            self._conversation.add_answer(answer.text)
        self.screen.end_line()
        if problem := problem or _shortcoming(answer):
            self.screen.say(problem)

    def _retry(self, _: str) -> None:
        question = self._conversation.again()
        if not question:
            raise UsageError(NO_QUESTION)
        self._ask(question)

    def _set_system(self, text: str) -> None:
        self._conversation.system = text
        self.screen.say(SYSTEM_SET if text else SYSTEM_CLEARED)

    def _begin_anew(self, _: str) -> None:
        self._conversation = Conversation(self._conversation.system)
        self.screen.say(NEW_CONVERSATION)

    def _toggle_thoughts(self, _: str) -> None:
        self.screen.shows_thoughts = not self.screen.shows_thoughts
        self.screen.say(THOUGHTS_SHOWN if self.screen.shows_thoughts else THOUGHTS_HIDDEN)

    def _save(self, path: str) -> None:
        if not path:
            raise UsageError(NO_FILE_NAME)
        self._conversation.save(path)
        self.screen.say(SAVED.format(path))


def _shortcoming(answer: Answer) -> str:
    """Return what to say of an answer that is not whole; "" of a good one."""
    if answer.finish_reason == FAILED:
        return FAILED_ANSWER
    if answer.finish_reason == LENGTH:
        return CUT
    return "" if answer.text else EMPTY_ANSWER
