"""Compute one answer at a time by the library's generate(): the road that every model can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import transformers
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.sentences import CONTEXT_FULL, OUT_OF_MEMORY

from ._request import Request
from ._transformers_model import Stopped, TransformersModel

SHOWN = 300  # characters of what the library says


class Generate:
    """Answer a request with generate()."""

    def __init__(self, model: TransformersModel) -> None:
        self._model = model

    def __call__(self, request: Request) -> None:
        """Say the answer's text to the request until it is over."""
        try:
            with self._model.stopping_with(request):
                return self._generate(request)
        except Stopped:
            return None
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        self._model.free_memory()  # only now: the exception held on to what was computed
        raise AnswerError(OUT_OF_MEMORY)

    def check_options(self) -> None:
        """Compute a token with the options beyond the table; raises UsageError if that fails."""
        model = self._model
        if not model.beyond:
            return
        prompt = torch.tensor([[1, 2]], device=model.device)
        try:
            model.generate(input_ids=prompt, max_new_tokens=1, do_sample=False, **model.beyond)
        except Exception as error:  # noqa: BLE001 - the library raises whatever it likes
            reason = " ".join(str(error).split())[:SHOWN]
            names = ", ".join(model.beyond)
            raise UsageError(f"transformers cannot generate with {names}: {reason}") from None

    def _generate(self, request: Request) -> None:
        model = self._model
        room = model.room(request)
        streamer = Streamer(request, model.create_decoder(), ends=model.ends)
        wanted = {name: value for name, value in request.options.items() if value is not None}
        seed, most = wanted.pop("seed", None), wanted.pop("max_new_tokens")
        wanted.pop("stop", None)
        if wanted.get("temperature") == 0:
            wanted |= {"do_sample": False, "temperature": 1.0}
        can_stream = wanted.get("num_beams", 1) == 1
        torch.manual_seed(torch.seed() if seed is None else seed)
        tokens = model.generate(
            **self._inputs(request),
            streamer=streamer if can_stream else None,
            stopping_criteria=transformers.StoppingCriteriaList([UntilOver(request)]),
            eos_token_id=list(model.ends) or None,
            pad_token_id=next(iter(model.ends), 0),
            max_new_tokens=min(most, room),
            **wanted,
        )
        if not can_stream:  # the best beam is known at the end only
            read = 1 if model.library_model.config.is_encoder_decoder else len(request.prompt)
            streamer.put(tokens[0, :read])
            streamer.put(tokens[0, read:])
        if request.written == room < most and not streamer.ended:
            request.note(CONTEXT_FULL.format(model.context))

    def _inputs(self, request: Request) -> dict[str, Any]:
        if request.extra is not None:  # what the processor made of a picture
            return dict(request.extra.inputs(self._model.library_model))
        tokens = torch.tensor([request.prompt], device=self._model.device)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


class Streamer(BaseStreamer):
    """Take the tokens that generate() makes and say their text to a request."""

    def __init__(
        self, request: Request, decode: Callable[[int], str], *, ends: Iterable[int]
    ) -> None:
        self._request, self._decode, self._ends = request, decode, frozenset(ends)
        self._prompt_is_next = True
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, which comes first, or a token."""
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        for token in value.flatten().tolist():
            self._request.written += 1
            self.ended = self.ended or token in self._ends
            if not self.ended and not self._request.over:
                self._request.say(self._decode(token))

    def end(self) -> None:
        """Leave the end to the engine."""


class UntilOver(StoppingCriteria):
    """Stop generate() when the request is over."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        """Return a true value for every row, which is one."""
        return torch.full((input_ids.shape[0],), self._request.over, device=input_ids.device)
