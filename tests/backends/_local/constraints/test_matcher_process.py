"""What answers must match, with llguidance: masks, and everything that bots may ask of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("llguidance", reason="constrained answers need it")

from backends._local.constraints import child
from backends._local.constraints.constrainer import Constrainer
from backends._local.constraints.matcher import Matcher
from backends._local.constraints.matcher_process import (
    LONGEST_REASON,
    ConstraintError,
    MatcherProcess,
    Vocabulary,
)
from kuwa_min.chat.sentence import CHINESE, sentence_of
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options.constraint import ANY_OBJECT, GRAMMAR, JSON_SCHEMA, REGEX, Constraint, Kind
from tests.support.programs import until

pytestmark = pytest.mark.slow
WORDS = [b"true", b'{"', b'":', b"\xc3\xa9", b"<end>"]
TOKENS = [*(bytes([byte]) for byte in range(256)), *WORDS]
END = len(TOKENS)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
# References to anywhere, as /v1 writes those of functions' parameters.
REFERRING = {
    "anyOf": [
        {"$ref": "#/anyOf/0/$defs/x", "$defs": {"x": {"const": 1}}},
        {"$ref": "#/anyOf/1/$defs/x", "$defs": {"x": {"const": 2}}},
    ]
}


@pytest.fixture(scope="module")
def process() -> Iterator[MatcherProcess]:
    """Start one for a model of bytes and a few words."""
    made = MatcherProcess(lambda: Vocabulary(TOKENS, {END - 1}))
    yield made
    made.close()


def allowed(matcher: Matcher) -> set[bytes]:
    """Return the texts that may come next, b"" for the end."""
    mask = matcher.mask()
    return {
        text for token, text in enumerate([*TOKENS, b""]) if mask[token >> 3] >> (token & 7) & 1
    }


def behind(matcher: Matcher, text: bytes) -> set[bytes]:
    """Return what may come behind a text, byte by byte."""
    for byte in text:
        assert bytes([byte]) in allowed(matcher), text
        matcher.advance(byte)
    found = allowed(matcher)
    matcher.close()
    return found


@pytest.mark.parametrize(
    ("kind", "text", "said", "found"),
    [
        (REGEX, "[0-9]{2}", "", {*(b"%d" % digit for digit in range(10))}),
        (REGEX, "[0-9]{2}", "12", {b""}),
        (REGEX, "a/b|a\nc", "a", {b"/", b"\n"}),
        (REGEX, "truer?", "", {b"t", b"true"}),
        (REGEX, "é", "", {b"\xc3", b"\xc3\xa9"}),
        (GRAMMAR, 'start: "a" b\nb: "t" "rue"', "a", {b"t", b"true"}),
        (GRAMMAR, 'start: "a" | "b" start', "b", {b"a", b"b"}),
        (JSON_SCHEMA, json.dumps(PERSON), "", {b"{", b'{"'}),
        (JSON_SCHEMA, json.dumps(PERSON), "{", {b" ", b"\n", b'"'}),
        (JSON_SCHEMA, json.dumps(PERSON), "{ ", {b'"'}),
        (JSON_SCHEMA, json.dumps(PERSON), '{"', {b"n"}),
        (JSON_SCHEMA, json.dumps(PERSON), '{"name": "a", "age": 1}', {b""}),
        (*ANY_OBJECT, '{"a": [{}, null]', {b" ", b"\n", b",", b"}"}),
        (JSON_SCHEMA, '{"oneOf": [{"const": 1}, {"const": 23}]}', "2", {b"3"}),
        (JSON_SCHEMA, json.dumps(REFERRING), "", {b"1", b"2"}),
    ],
)
def test_a_mask_allows_what_can_still_match(
    process: MatcherProcess, kind: Kind, text: str, said: str, found: set[bytes]
) -> None:
    """In any tokens, the special ones excepted, and an end where it has matched."""
    assert behind(process.open(Constraint(kind, text)), said.encode()) == found


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        (REGEX, "a(", "unclosed group"),
        (REGEX, "(" * 30_000 + "a" + ")" * 30_000, "cannot be used: "),
        (REGEX, "(?=a)b", "look-around"),
        (GRAMMAR, "hello", "Expected token"),
        (GRAMMAR, "start: a\na: b", 'at 2(4): unknown name: "b"'),
        (JSON_SCHEMA, '{"type": "integer", "minimum": 5, "maximum": 3}', "Unsatisfiable schema"),
        (JSON_SCHEMA, '{"$ref": "#"}', "nothing matches it"),
        (JSON_SCHEMA, '{"not": {}}', 'Unimplemented keys: ["not"]'),
        (JSON_SCHEMA, '{"type": "foo"}', "Invalid type: foo"),
        (JSON_SCHEMA, '{"items":' * 3_000 + "{}" + "}" * 3_000, "recursion"),
        (JSON_SCHEMA, '{"$ref": "http://127.0.0.1:9/s.json"}', "does not fetch"),
        (JSON_SCHEMA, '{"x-guidance": 1}', "x-guidance must be an object"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(
    process: MatcherProcess, kind: Kind, text: str, reason: str
) -> None:
    """Of one line, and not as long as what was asked."""
    with pytest.raises(ConstraintError) as refused:
        process.open(Constraint(kind, text))
    sentence = str(refused.value.sentence)
    assert reason in sentence
    assert "no_forcing" not in sentence and "whitespace" not in sentence, "what we add"
    assert "\n" not in sentence and len(sentence) < LONGEST_REASON + 50


def test_what_takes_too_long_to_compile_ends_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A running answer goes on, and others begin."""
    name = "backends._local.constraints.matcher_process.SOURCE"
    monkeypatch.setattr(name, with_limit(1, of="multipleOf"))
    process = MatcherProcess(lambda: Vocabulary(TOKENS, {END - 1}))
    running = process.open(Constraint(REGEX, "ab"))
    try:
        endless = Constraint(JSON_SCHEMA, '{"type": "integer", "multipleOf": 999983}')
        with pytest.raises(ConstraintError, match="takes more than 10 s or 512 MB to compile"):
            process.open(endless)
        assert behind(running, b"a") == {b"b"}
        assert behind(process.open(Constraint(REGEX, "ab")), b"a") == {b"b"}
    finally:
        process.close()


def with_limit(seconds: int, *, of: str) -> str:
    """Return the program with a shorter limit for constraints that have a word in them."""
    source = Path(str(child.__file__)).read_text(encoding="utf-8")
    call = "signal.alarm(COMPILE_SECONDS)"
    assert call in source
    return source.replace(call, f'signal.alarm({seconds} if "{of}" in order["text"] else 0)')


def children(process: MatcherProcess) -> list[str]:
    """Return the processes of the answers under way."""
    assert process._process is not None
    pid = process._process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_processes_end_with_their_answers() -> None:
    """And one that was killed is started again."""
    process = MatcherProcess(lambda: Vocabulary(TOKENS, {END - 1}))
    first = process.open(Constraint(REGEX, "ab"))
    first.mask()
    popen = process._process
    assert popen is not None
    (answering,) = children(process)
    os.kill(popen.pid, signal.SIGKILL)
    popen.wait()
    assert behind(process.open(Constraint(REGEX, "cd")), b"c") == {b"d"}
    assert process._process is not popen
    assert Path(f"/proc/{answering}").exists(), "an answer under way goes on"
    first.close()
    until(lambda: not Path(f"/proc/{answering}").exists())
    process.close()


class Tokens:
    """A model of these tokens."""

    vocabulary_size = END
    eos_token_ids = frozenset({END - 1})
    markup: ClassVar = {END - 1: "<end>"}

    def __init__(self, known: list[bytes] | None) -> None:
        self.tokenizer, self._known = self, known
        self.control_tokens = self
        self.ids: frozenset[int] = frozenset()

    def token_bytes(self) -> list[bytes] | None:
        """Return what they write."""
        return self._known

    def tokenize(self, text: str) -> list[int]:
        """Return bytes."""
        return [*text.encode()]


@pytest.mark.parametrize(
    ("known", "text", "reason"),
    [
        (TOKENS, "a(", "regex cannot be used: "),
        (None, "a", "regex cannot be used with this model: the texts of its tokens are not"),
    ],
)
def test_a_bot_and_an_operator_are_told_why(
    known: list[bytes] | None, text: str, reason: str
) -> None:
    """In a chat as an answer, at the start in the line that ends it."""
    constrainer = Constrainer(Tokens(known))  # type: ignore[arg-type]
    with pytest.raises(AnswerError) as refused:
        constrainer.begin(Constraint(REGEX, text))
    sentence = sentence_of(refused.value)
    assert str(sentence).startswith(f"[The option llm_{reason}")
    assert sentence.render(CHINESE).startswith("[無法使用選項 llm_regex：無法")
    with pytest.raises(UsageError, match=f"^{reason}"):
        constrainer.check({"regex": text})
    constrainer.check({"regex": None})
    constrainer.close()


def test_a_mask_costs_little(process: MatcherProcess) -> None:
    """In processor time. Loose by far: a token of the smallest models takes longer than this."""
    process.open(ANY_OBJECT).close()  # for the first one, the process is started
    before, matcher = {*children(process)}, process.open(ANY_OBJECT)
    (answering,) = {*children(process)} - before
    text = b'{"a": "' + b"b" * 200
    for byte in text:
        matcher.mask()
        matcher.advance(byte)
    matcher.mask()
    fields = Path(f"/proc/{answering}/stat").read_text().rpartition(")")[2].split()
    matcher.close()
    spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user, system
    assert spent / len(text) < 0.02
