"""Holds the answers of a model to what bots and operators ask for."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cached_property
from typing import Any, Protocol

from backends._local.tokenizing.prompt_tokenizer import ModelTokenizer
from kuwa_min.chat.catalog import BAD_OPTION
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options.constraint import Constraint, take_constraint
from kuwa_min.options.sentences import OPTION_REASON

from .answer import ConstrainedAnswer, Openers
from .matcher_process import ConstraintError, MatcherProcess, Vocabulary


class ModelTokens(Protocol):
    """What must be known of a model's tokens."""

    vocabulary_size: int
    markup: Mapping[int, str]
    tokenizer: ModelTokenizer

    @property
    def eos_token_ids(self) -> Container[int]:
        """Return the tokens that end a completion."""


class Constrainer:
    """Begins constrained answers of a loaded model; any thread."""

    def __init__(self, model: ModelTokens) -> None:
        self._model = model
        self._process = MatcherProcess(self._vocabulary)

    def begin(self, constraint: Constraint) -> ConstrainedAnswer:
        """Return what one answer must match; raises AnswerError if that cannot be used.

        The first one waits until the vocabulary is read, which takes seconds if it is large.
        """
        try:
            return self._begin(constraint)
        except ConstraintError as error:
            reason = OPTION_REASON.format(constraint.kind, error.sentence)
            raise AnswerError(BAD_OPTION.format(reason)) from None

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UsageError if what an operator's options ask for cannot be used."""
        constraint = take_constraint(dict(settings), {})
        if constraint is None:
            return
        try:
            self._begin(constraint).close()
        except ConstraintError as error:
            raise UsageError(f"{constraint.kind} {error.sentence}") from None

    def _begin(self, constraint: Constraint) -> ConstrainedAnswer:
        matcher = self._process.open(constraint)
        return ConstrainedAnswer(matcher, self._openers, self._ends)

    @cached_property
    def _ends(self) -> list[int]:
        ends = self._model.eos_token_ids
        return [token for token in range(self._model.vocabulary_size) if token in ends]

    @cached_property
    def _openers(self) -> Openers:
        return Openers(self._model.tokenizer)

    def _vocabulary(self) -> Vocabulary | None:
        tokens = self._model.tokenizer.token_bytes()
        if not tokens or not self._ends:
            return None
        size = self._model.vocabulary_size
        tokens = [*tokens[:size], *[b""] * (size - len(tokens))]
        special = {*self._ends, *(token for token in self._model.markup if token < size)}
        return Vocabulary(tokens, special)

    def close(self) -> None:
        """End the process behind it."""
        self._process.close()
