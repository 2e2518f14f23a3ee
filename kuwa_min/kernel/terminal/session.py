"""`chat`: a conversation at the terminal, with commands that begin with /."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from kuwa_min.errors import KuwaError, UsageError

from .answer import FAILED, LENGTH, Answer, ServerError
from .clients import Client
from .conversation import Conversation
from .line_input import line_editing, read_message
from .options import choose_name, connect, create_parser
from .screen import Screen
from .visible_text import tolerate_encodings

HELP = '''\
Enter sends. A line that ends in \\ goes on in the next one; """ begins and ends several lines.
Ctrl-C stops an answer, Ctrl-D ends the chat.
  /retry        ask the last question again, in place of its answer
  /system TEXT  set the system prompt from the next message on; without TEXT: none
  /new          begin a new conversation
  /save FILE    write the conversation to a new file: Markdown, or JSON if it ends in .json
  /help         this
A message that begins with / is written with two of them.'''


def run(program: str, rest: list[str]) -> None:
    """Chat until Ctrl-D; raises KuwaError for what cannot begin."""
    parser = create_parser(program, "Chat at the terminal.", HELP)
    parser.add_argument(
        "--history_file",
        metavar="FILE",
        help="keep what is typed in this file, which only you can read (default: keep nothing)",
    )
    args = parser.parse_args(rest)
    tolerate_encodings()
    client = connect(args)
    name = choose_name(client, args.access_code)
    session = Session(client, name, Screen(sys.stdout), args.system)
    session.screen.say(f"{name} at {args.base_url or args.kernel_url}; /help says what can be done")
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
            "/help": lambda _: self.screen.say(HELP),
        }

    def run(self, read: Callable[[str], str]) -> None:
        """Read messages until the end of the input; read: prompts for a line, as `input`."""
        while True:
            try:
                message = read_message(read)
            except KeyboardInterrupt:
                self.screen.say("\n(Ctrl-D ends the chat)")
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
                raise UsageError(f"there is no {word}; /help lists what there is")
        except KuwaError as error:
            self.screen.say(f"error: {error}")

    def _ask(self, question: str) -> None:
        """Show an answer as it comes; Ctrl-C stops it, and what has come stays in the chat."""
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
            problem = "(stopped)"
        except ServerError as error:
            problem = f"error: {error}; /retry asks again"
        if answer.text:
            self._conversation.add_answer(answer.text)
        self.screen.end_line()
        if problem := problem or _shortcoming(answer):
            self.screen.say(problem)

    def _retry(self, _: str) -> None:
        question = self._conversation.again()
        if not question:
            raise UsageError("there is no question yet")
        self._ask(question)

    def _set_system(self, text: str) -> None:
        self._conversation.system = text
        self.screen.say("the system prompt is set" if text else "there is no system prompt now")

    def _begin_anew(self, _: str) -> None:
        self._conversation = Conversation(self._conversation.system)
        self.screen.say("a new conversation")

    def _save(self, path: str) -> None:
        if not path:
            raise UsageError("/save needs the name of a file")
        self._conversation.save(path)
        self.screen.say(f"saved to {path}")


def _shortcoming(answer: Answer) -> str:
    """Return what to say of an answer that is not whole; "" of a good one."""
    if answer.finish_reason == FAILED:
        return "(the answer failed; /retry asks again)"
    if answer.finish_reason == LENGTH:
        return "(cut by its limit)"
    return "" if answer.text else "(the answer is empty)"
