"""Generate one completion at a time with the library's generate(), which works for every model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from backends._local.answers.thought_limit import ThoughtLimit
from backends._local.completion import Completion
from backends._local.constraints.sentences import WITH_BEAMS
from backends._local.request import Request
from backends._local.sentences import CONTEXT_FULL
from kuwa_min.chat.catalog import BAD_OPTION, OUT_OF_MEMORY
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options.sentences import OPTION_REASON
from kuwa_min.options.thinking import LOCAL_OPTIONS

from .decoding.sampler import mask_logits
from .model import Aborted, TransformersModel
from .options import TOKEN_IDS

MAX_REASON = 300  # characters of the library's error message
TOKEN_OPTIONS = (*TOKEN_IDS, "bad_words_ids")


class Generate:
    """Generates the completion of a request; what a SerialScheduler calls."""

    def __init__(self, model: TransformersModel) -> None:
        self._model = model

    def __call__(self, request: Request) -> None:
        """Generate, emitting the text, until the completion ends or should stop."""
        try:
            with self._model.aborting_with(request):
                return self._generate(request)
        except Aborted:
            return None
        except Exception as error:
            if not self._model.is_out_of_memory(error):
                raise
        self._model.free_memory()  # not above: the exception's traceback kept the tensors alive
        raise AnswerError(OUT_OF_MEMORY)

    def check_options(self) -> None:
        """Generate tokens with the generate_options; raises UsageError if that fails."""
        model = self._model
        if not model.generate_options:
            return
        self._check_token_ids()
        try:
            with warnings.catch_warnings():  # lengths that two tokens cannot satisfy
                warnings.simplefilter("ignore")
                model.generate(
                    input_ids=torch.tensor([[1, 2]], device=model.device),
                    **self._special_ids(model.eos_token_ids),
                    max_new_tokens=2,
                    do_sample=False,
                    **model.generate_options,
                )
        except Exception as error:  # noqa: BLE001 - the library raises anything
            model.check_usable(error)
            reason = " ".join(str(error).split())[:MAX_REASON]
            names = ", ".join(model.generate_options)
            raise UsageError(f"transformers cannot generate with {names}: {reason}") from None

    def _check_token_ids(self) -> None:
        """Raise UsageError for tokens that the model does not have: a GPU would end for all."""
        size = self._model.embeddings
        for name, value in self._model.generate_options.items():
            if name in TOKEN_OPTIONS and (unknown := [one for one in _flat(value) if one >= size]):
                raise UsageError(f"{name}: {unknown[0]} is no token; the model has 0 to {size - 1}")

    @staticmethod
    def _special_ids(end_ids: frozenset[int]) -> dict[str, Any]:
        return {"eos_token_id": sorted(end_ids) or None, "pad_token_id": min(end_ids, default=0)}

    def _generate(self, request: Request) -> None:
        model = self._model
        room = model.max_completion_tokens(request)
        completion = Completion(request, model)
        streamer = Streamer(request, completion)
        options = _arguments(request.options)
        seed, max_new_tokens = options.pop("seed", None), options.pop("max_new_tokens")
        can_stream = options.get("num_beams", 1) == 1
        if request.constrained and not can_stream:
            raise AnswerError(BAD_OPTION.format(OPTION_REASON.format("num_beams", WITH_BEAMS)))
        torch.manual_seed(torch.seed() if seed is None else seed)
        tokens = model.generate(
            **self._inputs(request),
            streamer=streamer if can_stream else None,
            logits_processor=_processors(request, completion if can_stream else None),
            stopping_criteria=transformers.StoppingCriteriaList([StopCriterion(request)]),
            **self._special_ids(model.eos_token_ids | request.stop_token_ids),
            max_new_tokens=min(max_new_tokens, room),
            **options,
        )
        if not can_stream:  # the best beam is known at the end only
            is_encoder_decoder = model.library_model.config.is_encoder_decoder
            prompt_length = 1 if is_encoder_decoder else len(request.prompt_ids)
            streamer.put(tokens[0, :prompt_length])
            streamer.put(tokens[0, prompt_length:])
        most = min(room, max_new_tokens)
        request.is_cut = request.completion_tokens >= most and not streamer.has_ended
        if request.is_cut and room < max_new_tokens:
            request.add_side_note(CONTEXT_FULL.format(model.context_length))

    def _inputs(self, request: Request) -> dict[str, Any]:
        if request.model_inputs is not None:  # of a chat with images
            return dict(request.model_inputs.for_model(self._model.library_model))
        input_ids = torch.tensor([request.prompt_ids], device=self._model.device)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's options as generate() takes them, without those of Completion."""
    ours = ("stop", "stop_token_ids", *(option.name for option in LOCAL_OPTIONS))
    given = {name: one for name, one in options.items() if one is not None and name not in ours}
    if given.get("temperature") == 0:
        given |= {"do_sample": False, "temperature": 1.0}
    if given.get("top_k") == -1:
        given["top_k"] = 0
    return given


def _flat(value: Any) -> Iterator[int]:
    """Yield the token ids of an option: one, or those of lists."""
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    elif isinstance(value, int):
        yield value


def _processors(
    request: Request, completion: Completion | None
) -> transformers.LogitsProcessorList:
    """Return what constrains an answer, and what ends a thought that is too long.

    completion: None with beam search, whose tokens are known at the end only.
    """
    limit = completion.thought_limit if completion else None
    chosen: list[transformers.LogitsProcessor] = [Constrain(request)] if request.constrained else []
    return transformers.LogitsProcessorList([*chosen, *([LimitThoughts(limit)] if limit else [])])


class Constrain(transformers.LogitsProcessor):
    """Lets generate() sample only tokens that the answer's mask allows."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of one sequence [1, vocabulary]; raises AnswerError."""
        mask = self._request.allowed_tokens()
        return scores if mask is None else mask_logits(scores, mask)


class LimitThoughts(transformers.LogitsProcessor):
    """Lets generate() sample the tokens that end a thought that is too long."""

    def __init__(self, limit: ThoughtLimit) -> None:
        self._limit = limit

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of one sequence [1, vocabulary]."""
        forced = self._limit.next_forced()
        if forced is None:
            return scores
        only = torch.full_like(scores, -math.inf)
        only[:, forced] = 0
        return only


class Streamer(BaseStreamer):
    """Receives generate()'s tokens and emits their text, up to the one that ends it."""

    def __init__(self, request: Request, completion: Completion) -> None:
        self._request, self._completion = request, completion
        self._skips_prompt = True
        self.has_ended = False  # by a token

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt first, then each token."""
        if self._skips_prompt:
            self._skips_prompt = False
            return
        for token in value.flatten().tolist():
            if self.has_ended or self._request.should_stop:
                return
            self.has_ended = self._completion.add_token(token)

    def end(self) -> None:
        """Do nothing: the scheduler finishes the request."""


class StopCriterion(StoppingCriteria):
    """Stops generate() when the request should stop."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        """Return, for each of the sequences, whether it is done."""
        stop = self._request.should_stop
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device)
