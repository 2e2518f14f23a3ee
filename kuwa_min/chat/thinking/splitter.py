"""Split the text of a model, as it comes, into what it thinks and what it answers. No I/O.

A thought counts where an answer begins, and behind another thought: a <think> in the midst of an
answer is text, unless it is a special token, which models write for nothing else. Only a tail that
may be the beginning of a tag is held.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal

from kuwa_min.chat.text import overlap

from . import formats
from .formats import WRAPPERS, Format, Wrappers, any_of
from .mentions import Line

Kind = Literal["thought", "answer", "markup"]  # markup: a special token's, which is not shown
THOUGHT: Kind = "thought"
ANSWER: Kind = "answer"
MARKUP: Kind = "markup"
Part = tuple[Kind, str]

LONGEST_HEADER = 200  # characters; a longer one is none
NOT_SPACE = re.compile(r"\S")
PROMPT_END = 64  # tokens or characters of a prompt that may belong to the answer


class ThoughtSplitter:
    """Splits one answer: feed() its text in any pieces, then finish().

    prompt_end: the end of the prompt, in which a template may have opened the thought already.
    guess: as the model's service was seen to do; without a closing tag it was an answer.
    wrappers: tags around the answer that are markup.
    """

    def __init__(
        self, prompt_end: str = "", *, guess: Format | None = None, wrappers: Wrappers = WRAPPERS
    ) -> None:
        self._text, self._at = "", 0  # what is held, and where the rest of it begins
        self._is_hidden: list[bool] = []  # for each character of it
        self._parts: list[Part] = []
        self._step = self._begin
        self._format: Format | None = None  # of the thought that is open, or was last
        self._is_harmony = False
        self._depth = 0  # thoughts within thoughts that are open
        self._line = Line()
        self._may_repeat = False  # the prompt opened the thought; many models open it again
        # What is a thought if another closing tag comes, and an answer if not; None: all is clear.
        self._undecided: list[str] | None = None
        self._words = ""  # that opened it, in front of what is undecided
        self._answer_close = ""  # of the tag that the answer is in
        self._has_answered = False
        self._wrappers, self._openings = wrappers, formats.OPENINGS
        if guess is formats.BARE:
            self._openings = {**self._openings, guess.open: guess}
        self._read_prompt(prompt_end[-PROMPT_END:])
        if guess is not None and guess is not formats.BARE and self._format is None:
            self._open(guess)
            self._undecided = []
        self._may_repeat = self.is_thinking

    @property
    def is_thinking(self) -> bool:
        """Tell whether a thought is open."""
        return self._step == self._think

    @property
    def closing(self) -> str:
        """Return the text that ends the thought that is open."""
        return self._format.closing if self._format else ""

    @property
    def passes_all(self) -> bool:
        """Tell whether text that is not hidden is passed on as it is, as a part of the answer."""
        return self._has_answered and self._step == self._answer and not self._answer_close

    def feed(self, text: str, *, hidden: bool = False) -> list[Part]:
        """Return what the text makes clear; hidden: it is the markup of a special token."""
        self._text += text
        self._is_hidden += [hidden] * len(text)
        while self._at < len(self._text) and self._step():
            pass
        self._text, self._is_hidden = self._text[self._at :], self._is_hidden[self._at :]
        self._at = 0
        parts, self._parts = self._parts, []
        return parts

    def finish(self) -> list[Part]:
        """Return what was held until the end. A thought that is not closed stays one."""
        if self._step == self._think:
            self._think_on(len(self._text))
            undecided, self._undecided = self._undecided, None
            self._add(ANSWER, "".join((self._words, *undecided)) if undecided is not None else "")
        elif self._step == self._read_header:
            if formats.HEADERS[1] not in self._text:  # else it was cut short
                self._drop_header()
        elif not self._text.startswith(self._answer_close or "\0"):
            if self._step == self._begin and self._format is not None:
                self._at = self._next_word()
            self._pass(len(self._text))
        parts, self._parts = self._parts, []
        return parts

    # -- what the parts are made of

    def _add(self, kind: Kind, text: str) -> None:
        if text:
            self._parts.append((kind, text))
            self._has_answered = self._has_answered or (kind == ANSWER and not text.isspace())

    def _pass(self, end: int) -> None:
        """Pass on what is held up to here, as answer and markup."""
        marked = zip(self._is_hidden[self._at : end], self._text[self._at : end], strict=True)
        for hidden, run in itertools.groupby(marked, key=lambda one: one[0]):
            self._add(MARKUP if hidden else ANSWER, "".join(one for _, one in run))
        self._at = end

    def _visible(self, start: int, end: int) -> str:
        shown = self._is_hidden[start:end]
        if not any(shown):
            return self._text[start:end]
        return "".join(itertools.compress(self._text[start:end], (not one for one in shown)))

    def _next_word(self) -> int:
        """Return where white space ends."""
        found = NOT_SPACE.search(self._text, self._at)
        return found.start() if found else len(self._text)

    # -- before an answer, and between thoughts; a step returns whether there is more to do

    def _begin(self) -> bool:
        """Look for a tag; pass on what is none."""
        at = self._next_word()
        rest = self._text[at : at + formats.LONGEST]
        if not rest:
            return False
        tags = self._tags()
        if tag := next((one for one in tags if rest.startswith(one)), ""):
            self._at = at + len(tag)
            self._take(tag)
            return True
        if any(one.startswith(rest) for one in tags):
            return False
        if self._is_hidden[at]:
            end = at + self._hidden_run(at)
            self._add(MARKUP, self._text[at:end])
            self._at = end
            return True
        if self._has_answered:
            self._add(ANSWER, "\n\n")
        if self._format is not None or self._has_answered:
            self._at = at
        self._step = self._answer
        return True

    def _tags(self) -> list[str]:
        """Return the tags that may stand here."""
        behind = self._format is not None
        tags = [*self._openings, *formats.HEADERS, *(self._wrappers if behind else ())]
        if self._format is not None:
            tags.append(self._format.close)
        return [*tags, *(formats.ENDS if self._is_harmony else ())]

    def _take(self, tag: str) -> None:
        """Do what a tag says."""
        if opened := self._openings.get(tag):
            self._open(opened)
            self._words, self._undecided = (tag, []) if opened.is_plain else ("", None)
        elif tag in formats.HEADERS:
            self._at -= len(tag)
            self._step = self._read_header
        elif tag in self._wrappers:
            self._answer_close = self._wrappers[tag]

    def _open(self, opened: Format) -> None:
        self._format, self._depth, self._step = opened, 1, self._think
        self._line = Line()

    def _hidden_run(self, at: int) -> int:
        """Return how many characters from here on are hidden."""
        return len([*itertools.takewhile(bool, self._is_hidden[at:])])

    # -- within a thought

    def _think(self) -> bool:
        """Pass on a thought up to the tag that ends it."""
        assert self._format is not None
        tags = self._thought_tags(self._format)
        found = any_of(tags).search(self._text, self._at)
        if found is None:
            self._think_on(len(self._text) - overlap(self._text[self._at :], tags))
            return False
        self._think_on(found.start())
        tag = found[0]
        if self._may_be_quoted(tag):
            if found.end() == len(self._text):
                return False
            if self._text[found.end()] == self._line.quote:
                self._think_on(found.end())
                return True
        self._at = found.end()
        if tag == self._format.open:
            self._nest(tag)
        elif tag in formats.HEADERS:
            self._at = found.start()
            self._step = self._read_header
        else:
            self._close(tag)
        return True

    @staticmethod
    def _thought_tags(opened: Format) -> tuple[str, ...]:
        if opened is formats.HARMONY:
            return (*formats.ENDS, *formats.HEADERS)
        return (opened.close,) if opened is formats.BARE else (opened.close, opened.open)

    def _may_be_quoted(self, tag: str) -> bool:
        """Tell whether a quote opens in front of a tag of text."""
        is_text = tag not in formats.HARMONY_TOKENS and not self._is_hidden[self._at]
        return is_text and bool(self._line.quote)

    def _think_on(self, end: int) -> None:
        text = self._visible(self._at, end)
        self._may_repeat = self._may_repeat and not text.strip()
        self._depth -= self._line.feed(text)
        if self._undecided is None:
            self._add(THOUGHT, text)
        else:
            self._undecided.append(text)
        self._at = end

    def _nest(self, tag: str) -> None:
        """Open a thought within a thought."""
        if self._undecided is not None and not self._may_repeat:
            self._undecided.append(tag)
        if not self._may_repeat:
            self._depth += 1
            self._line.open()
        self._may_repeat = False

    def _close(self, tag: str) -> None:
        """Close the innermost thought: if it is in another one, what follows is not clear yet."""
        self._depth -= 1
        self._line.close()
        if self._depth and self._undecided is not None:
            self._undecided.append(tag)
            return
        self._add(THOUGHT, "".join(self._undecided or ()))
        self._undecided, self._words = [] if self._depth else None, ""
        if not self._depth:
            self._step = self._begin

    # -- the header of a message of harmony

    def _read_header(self) -> bool:
        """Find out by its header whether a message is a thought."""
        end = self._text.find(formats.MESSAGE, self._at)
        if end < 0:
            if len(self._text) - self._at > LONGEST_HEADER:
                self._drop_header()
            return self._step != self._read_header
        header = self._text[self._at : end]
        self._at = end + len(formats.MESSAGE)
        self._is_harmony = True
        channel = formats.CHANNEL.search(header)
        is_thought = channel is not None and channel[1] in formats.THINKING_CHANNELS
        if is_thought or formats.TO_A_TOOL in header:
            self._open(formats.HARMONY)
        else:
            if self._has_answered:
                self._add(ANSWER, "\n\n")
            self._format, self._step = formats.HARMONY, self._answer
        return True

    def _drop_header(self) -> None:
        """Pass on what began like a header, without its markup."""
        shown = self._visible(self._at, len(self._text))
        self._add(ANSWER, any_of(formats.HEADERS).sub("", shown))
        self._at, self._step = len(self._text), self._answer

    # -- the answer

    def _answer(self) -> bool:
        """Pass on the answer, up to a special token that begins a thought."""
        if True not in self._is_hidden[self._at :]:
            self._pass(self._answer_end())
            return False
        start = self._is_hidden.index(True, self._at)
        self._pass(self._close_of(start))
        self._at = start
        rest = self._text[start : start + formats.LONGEST]
        if any(one.startswith(rest) or rest.startswith(one) for one in self._tags()):
            self._step = self._begin
            return True
        self._pass(start + self._hidden_run(start))
        return True

    def _answer_end(self) -> int:
        """Return where the held end of the answer begins, which may be the tag around it."""
        end = len(self._text)
        closed = self._close_of(end)
        if closed < end or not self._answer_close:
            return closed
        return end - overlap(self._text[self._at :], (self._answer_close,))

    def _close_of(self, end: int) -> int:
        """Return where the tag around the answer closes, if it does at this end; else the end."""
        close = self._answer_close
        last = self._text.rfind(close, self._at, end) if close else -1
        is_last = last >= 0 and not self._text[last + len(close) : end].strip()
        return last if is_last else end

    # -- the prompt

    def _read_prompt(self, end: str) -> None:
        """Begin as the end of the prompt says: in a thought, behind one, or in a message."""
        start = end.rfind(formats.LAST_TURN)
        if start >= 0:
            self.feed(end[start:], hidden=True)
            return
        end = end.rstrip()
        for one in formats.FORMATS:
            if end.endswith(one.open.rstrip()):
                self._open(one)
            elif end.endswith(one.close):
                self._format = one
