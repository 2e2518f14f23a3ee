"""`ask`: one question and its answer, for scripts."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import BinaryIO

from kuwa_min.errors import KuwaError, UsageError
from kuwa_min.options import text_file

from .answer import FAILED, LENGTH, NOTE, TEXT, THOUGHT, Answer, Piece, ServerError
from .conversation import Conversation
from .options import choose_name, connect, create_parser
from .visible_text import tolerate_encodings, visible

EPILOG = """\
What comes by a pipe is put behind the question: ask "Summarise this:" < report.txt
Control characters of the answer are made harmless where it is written to a terminal.
exit codes: 0 answered; 1 no answer, or a broken one; 2 wrong options; 4 the answer was cut by its
limit; 130 Ctrl-C"""
LONGEST_INPUT = 8 << 20  # bytes; servers of ours take no longer request


class AnswerCut(KuwaError):
    """The answer was cut by its limit."""

    exit_code = 4


def run(program: str, rest: list[str]) -> None:
    """Ask, and write the answer to standard output; raises KuwaError."""
    description = "Ask one question and write the answer to standard output."
    parser = create_parser(program, description, EPILOG)
    parser.add_argument("question", nargs="*", metavar="TEXT", help="the question")
    parser.add_argument("--json", action="store_true", help="write one line of JSON at the end")
    args = parser.parse_args(rest)
    tolerate_encodings()
    question = full_question(" ".join(args.question), sys.stdin.buffer)
    client = connect(args)
    name = choose_name(client, args.access_code)
    conversation, answer = Conversation(args.system), Answer()
    messages = conversation.ask(question)
    with contextlib.closing(client.answer(name, messages, args.system)) as events:
        for event in events:
            answer.add(event)
            if not args.json and isinstance(event, Piece):
                _show(event)
    if args.json:
        sys.stdout.write(json.dumps(as_object(name, answer)) + "\n")
    elif not answer.joined(TEXT).endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
    check(answer)


def full_question(words: str, stdin: BinaryIO) -> str:
    """Return the question, with what comes by a pipe; raises UsageError."""
    piped = "" if stdin.isatty() else _read(stdin)
    question = "\n\n".join(part for part in (words, piped) if part.strip())
    if not question:
        raise UsageError("there is no question: ask TEXT, or give it by a pipe")
    return question.encode("utf-8", "replace").decode()


def _read(stdin: BinaryIO) -> str:
    data = stdin.read(LONGEST_INPUT + 1)
    if len(data) > LONGEST_INPUT:
        raise UsageError(f"standard input is longer than {LONGEST_INPUT >> 20} MiB")
    try:
        return text_file.decode(data)
    except text_file.InvalidTextFile as error:
        raise UsageError(f"standard input {error}") from None


def _show(piece: Piece) -> None:
    """Write text as it comes; notes go to standard error, thoughts nowhere."""
    out = sys.stderr if piece.kind == NOTE else sys.stdout
    if piece.kind == NOTE:
        out.write(visible(f"note: {piece.text}") + "\n")
    elif piece.kind == TEXT:
        out.write(visible(piece.text) if out.isatty() else piece.text)
    out.flush()


def as_object(name: str, answer: Answer) -> dict[str, object]:
    """Return what --json writes."""
    return {
        "access_code": name,
        "answer": answer.text,
        "thoughts": answer.joined(THOUGHT),
        "side_notes": answer.pieces.get(NOTE, []),
        "finish_reason": answer.finish_reason,
        "usage": answer.usage._asdict() if answer.usage else None,
    }


def check(answer: Answer) -> None:
    """Raise ServerError or AnswerCut for an answer that is none, or not whole."""
    if answer.finish_reason == FAILED:
        raise ServerError("the answer failed")
    if answer.finish_reason == LENGTH:
        raise AnswerCut("the answer was cut by its limit")
    if not answer.text:
        raise ServerError("the answer is empty")
