"""The program of the process that computes masks: which tokens may come next in an answer.

It is run as `python -I -S -B -c SOURCE`, with a socket as its standard input. A message is its
length in four bytes, then its bytes.

1. The first process reads three messages, {"path", "special"} as JSON, the lengths of all tokens
   and the tokens joined, and answers with an empty one, or with what is wrong.
2. It then gets sockets, one with each byte, and forks a process for each of them.
3. Such a process reads {"kind", "text"} as JSON and answers with an empty message, or with what is
   wrong. Then it sends a mask, a bit for each token and one for the end, reads the number of the
   token that was chosen in four bytes, and so on up to the end of the socket.

Nothing of ours can be imported here. The parent imports this module for its constants.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import sys
from array import array
from typing import Any

NUMBER = struct.Struct("<I")
END = b"<end of answer>"  # text of the token for the end, whose id is the vocabulary's size
COMPILE_SECONDS = 10  # which llguidance does not bound itself
# Seconds that the masks of an answer may take, beyond MORE_SECONDS for each of its tokens.
MASK_SECONDS, MORE_SECONDS = 5.0, 0.05
MEMORY = 512 * 2**20  # bytes of address space beyond that of the process with the vocabulary
PAGE = os.sysconf("SC_PAGE_SIZE")
# Without forcing, the model samples also where only one text can follow: in the tokens that it was
# trained to write it with.
HEAD = '%llguidance {"no_forcing": true}\n'
# Of a JSON schema, unless its own "x-guidance" says otherwise. Models that may write white space
# without an end do so.
JSON_OPTIONS = {"whitespace_pattern": r"\x20|\n[\x20\t]{0,40}", "coerce_one_of": True}


def main() -> None:
    """Make the tokenizer, then fork a process for each socket that comes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps those that ended
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever it computes
    control = socket.socket(fileno=os.dup(0))
    setup = json.loads(read_message(control))
    sys.path += setup["path"]
    try:
        import llguidance

        tokenizer = create_tokenizer(llguidance, control, setup["special"])
    except Exception as error:  # noqa: BLE001 - the parent reports it
        write_message(control, f"{type(error).__name__}: {error}".encode())
        return
    write_message(control, b"")
    while (received := socket.recv_fds(control, 1, 1))[0]:
        (number,) = received[1]
        if os.fork():
            os.close(number)
            continue
        control.close()
        os.close(0)
        limit_memory()
        serve(llguidance, tokenizer, socket.socket(fileno=number))
        os._exit(0)


def create_tokenizer(llguidance: Any, control: socket.socket, special: list[int]) -> Any:
    """Return llguidance's tokenizer of the vocabulary that the parent sends."""
    lengths, joined = array("I", read_message(control)), read_message(control)
    tokens, at = [], 0
    for length in lengths:
        tokens.append(joined[at : at + length])
        at += length
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary(tokens, special)))


class Vocabulary:
    """The vocabulary as llguidance takes it; nothing is tokenized where nothing is forced."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int]) -> None:
        self.tokens, self.eos_token_id = [*tokens, END], len(tokens)
        self.special_token_ids = [*special, len(tokens)]

    def __call__(self, text: bytes) -> list[int]:
        """Return no tokens."""
        return []


def serve(llguidance: Any, tokenizer: Any, answer: socket.socket) -> None:
    """Compile what an answer must match, then send masks and read tokens."""
    order = json.loads(read_message(answer))
    signal.alarm(COMPILE_SECONDS)
    try:
        grammar = llguidance.LLMatcher.grammar_from_lark(lark_of(llguidance, **order))
    except Exception as error:  # noqa: BLE001 - whatever a text makes these raise
        return write_message(answer, f"{type(error).__name__}: {error}".encode())
    limits = llguidance.LLParserLimits(verbose_errors=False)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    mask, size = matcher.compute_bitmask(), (tokenizer.vocab_size + 7) // 8
    write_message(answer, matcher.get_error().encode())
    signal.alarm(0)
    left = MASK_SECONDS
    while not matcher.is_error():
        answer.sendall(mask[:size])
        token = answer.recv(NUMBER.size)
        if not token:
            return None
        signal.setitimer(signal.ITIMER_REAL, min(left + MORE_SECONDS, MASK_SECONDS))
        matcher.consume_token(*NUMBER.unpack(token))
        mask = matcher.compute_bitmask()
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def lark_of(llguidance: Any, kind: str, text: str) -> str:
    """Return a constraint as a grammar in Lark's notation."""
    if kind == "json_schema":
        schema = json.loads(text)
        own = schema.get("x-guidance", {})
        if not isinstance(own, dict):
            raise ValueError("x-guidance must be an object")
        schema["x-guidance"] = {**JSON_OPTIONS, **own}
        return f"{HEAD}start: %json {json.dumps(schema)}"
    if kind == "regex":
        return f"{HEAD}start: /{llguidance.regex_to_lark(text, '')}/"
    return f"{text}\n{HEAD}"  # behind it, so that error messages count the lines of the text


def limit_memory() -> None:
    """Limit this process: a compiler that runs out of memory ends its own answer only."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - nothing else is imported
        size = int(file.read().split()[0]) * PAGE
    for limit, most in (
        (resource.RLIMIT_AS, size + MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (most, most))


def read_message(source: socket.socket) -> bytes:
    """Read a message; raises EOFError at the end of the socket."""
    (length,) = NUMBER.unpack(read_bytes(source, NUMBER.size))
    return read_bytes(source, length)


def read_bytes(source: socket.socket, count: int) -> bytes:
    """Return exactly `count` bytes of the socket; raises EOFError if it ends before."""
    data = source.recv(count, socket.MSG_WAITALL) if count else b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def write_message(target: socket.socket, data: bytes) -> None:
    """Send a message."""
    target.sendall(NUMBER.pack(len(data)) + data)


if __name__ == "__main__":
    main()
