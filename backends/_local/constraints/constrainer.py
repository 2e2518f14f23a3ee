"""Constrain the answers of a model as bots and operators ask."""

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
    """A model's tokens, as far as constraints need them."""

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
        """Return a new answer that must match a constraint; raises AnswerError for an unusable one.

        The first one waits until the vocabulary is read, which takes seconds if it is large.
        """
        try:
            return self._begin(constraint)
        except ConstraintError as error:
            reason = OPTION_REASON.format(constraint.kind, error.sentence)
            raise AnswerError(BAD_OPTION.format(reason)) from None

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise UsageError if the constraint of an operator's options cannot be used."""
        constraint = take_constraint(dict(settings), {})
        if constraint is None:
            return
        try:
            self._begin(constraint).close()
        except ConstraintError as error:
            raise UsageError(f"{constraint.kind} {error.sentence}") from None

    def _begin(self, constraint: Constraint) -> ConstrainedAnswer:
        matcher = self._process.open(constraint)
        return ConstrainedAnswer(matcher, self._openers, self._eos_token_ids)

    @cached_property
    def _eos_token_ids(self) -> list[int]:
        known = self._model.eos_token_ids
        return [token for token in range(self._model.vocabulary_size) if token in known]

    @cached_property
    def _openers(self) -> Openers:
        return Openers(self._model.tokenizer)

    def _vocabulary(self) -> Vocabulary | None:
        tokens = self._model.tokenizer.token_bytes()
        if not tokens or not self._eos_token_ids:
            return None
        size = self._model.vocabulary_size
        tokens = [*tokens[:size], *[b""] * (size - len(tokens))]
        markup = (token for token in self._model.markup if token < size)
        special = {*self._eos_token_ids, *markup}
        return Vocabulary(tokens, special)

    def close(self) -> None:
        """End the process behind it."""
        self._process.close()
