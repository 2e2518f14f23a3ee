"""A model of the transformers library with its tokenizer, and what others ask of it."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import transformers

from ._chat_template import PLAIN, ChatTemplate
from ._request import Request
from ._transformers_loading import Progress, load
from ._transformers_text import create_decoder

logger = logging.getLogger(__name__)

DRAWN_AS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}  # where neither model nor user says it
Mask = torch.Tensor | dict[str, torch.Tensor] | None  # what forward() takes as attention_mask
CPU_MEMORY = "DefaultCPUAllocator"  # begins what torch says when the processor's memory is full


class Stopped(Exception):
    """Leave a forward pass: nobody wants what it computes."""


class TransformersModel:
    """A model folder in memory, with its tokenizer."""

    def __init__(
        self,
        path: str,
        args: argparse.Namespace,
        progress: Progress,
        *,
        template: str | None = None,
        beyond: Mapping[str, Any] | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        """Load it; raises StartError or UsageError.

        progress: called with (done, total); template: instead of its own; beyond: options that
        only generate() knows; ends: further EOS token ids.
        """
        self.beyond = dict(beyond or {})
        self._config, self.processor, self._tokenizer, self._model = load(path, args, progress)
        self.names = _names(self._tokenizer)
        self.takes_several_pictures = False
        if self.processor is None:
            self.template = self._choose_template(path, template)
        else:
            self.vision_template = self._choose_vision_template(path, template)
            self.takes_several_pictures = self._takes_several_pictures()
        self.ends = frozenset([*_end_tokens(self._model, self._tokenizer), *ends])
        self.context = _context_of(self._model, self._tokenizer)
        self.device: torch.device = self._model.device
        self.cache_name = _cache_name(self._model)
        self._drawn_as = _drawn_as(self._model.generation_config)
        self._watched: tuple[Request, ...] = ()
        for layer in _layers(self._model):
            layer.register_forward_pre_hook(self._stop_if_over)
        found = self.facts()
        logger.info(
            "loaded %s: %s, %s on %s, context of %d tokens",
            args.model_path,
            *(found[name] for name in ("model", "dtype", "device", "context")),
        )

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of a model."""
        return {
            "model": type(self._model).__name__,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": str(self._model.device),
            "context": self.context,
        }

    def _choose_template(self, path: str, override: str | None) -> ChatTemplate:
        own = self._tokenizer.chat_template
        template = override or (own.get("default") if isinstance(own, dict) else own)
        if template:
            return ChatTemplate(template, **self.names)
        logger.warning("%s has no chat template; a plain one is used", path)
        begin = self._tokenizer.bos_token_id
        begins = begin is not None and begin in self._tokenizer("").input_ids
        return ChatTemplate(PLAIN, bos_token=self._tokenizer.bos_token if begins else "")

    def _choose_vision_template(self, path: str, override: str | None) -> str:
        from ._transformers_vision import own_template

        template = override or own_template(self.processor, path)
        ChatTemplate(template)  # says what is wrong with it, if something is
        return template

    def _takes_several_pictures(self) -> bool:
        from ._transformers_vision import takes_several

        several = takes_several(self.processor, self.vision_template)
        if not several:
            logger.info("its processor takes one picture a chat: the last one is shown")
        return several

    # -- what the chat's thread asks

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a chat that a template has written down."""
        # the template writes the first token itself
        return cast("list[int]", self._tokenizer(text, add_special_tokens=False).input_ids)

    # -- what the engine asks

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: Mask,
        cache: transformers.Cache,
        *,
        wanted: torch.Tensor | int = 1,
    ) -> torch.Tensor:
        """Return the logits [rows, wanted, vocabulary] that follow the tokens [rows, tokens].

        wanted: the places of the tokens, or how many of the last ones.
        """
        logits: torch.Tensor = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            logits_to_keep=wanted,
            **{self.cache_name: cache},
        ).logits
        return logits

    def generate(self, **options: Any) -> Any:
        """Let the library compute an answer alone, in its own way."""
        return self._model.generate(**options)

    @contextlib.contextmanager
    def stopping_with(self, *requests: Request) -> Iterator[None]:
        """Raise Stopped at the next layer of a forward pass once all requests are over."""
        self._watched = requests
        try:
            yield
        finally:
            self._watched = ()

    def _stop_if_over(self, *_: Any) -> None:
        if self._watched and all(request.over for request in self._watched):
            raise Stopped

    def room(self, request: Request) -> int:
        """Return how many tokens an answer can have before the context is full."""
        if self._config.is_encoder_decoder:
            return self.context  # what the encoder reads has a context of its own
        return self.context - len(request.prompt)

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return generation options with the model's own where none is given."""
        return {
            name: self._drawn_as.get(name) if value is None else value
            for name, value in options.items()
        }

    def create_decoder(self) -> Callable[[int], str]:
        """Return what gives the text that each token of an answer completes."""
        return create_decoder(self._tokenizer)

    @property
    def config(self) -> Any:
        """Return the configuration of the part that makes text."""
        return self._model.config.get_text_config(decoder=True)

    @property
    def library_model(self) -> Any:
        """Return the library's own object."""
        return self._model

    # -- memory

    @staticmethod
    def is_out_of_memory(error: Exception) -> bool:
        """Tell whether memory ran out, on a graphics card or beside it."""
        return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
            isinstance(error, RuntimeError) and CPU_MEMORY in str(error)
        )

    @staticmethod
    def free_memory() -> None:
        """Give back what nobody uses; call it when no exception holds on to it any more."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _names(tokenizer: Any) -> dict[str, Any]:
    """Return the special tokens as templates know them."""
    return {
        name: value
        for name, value in tokenizer.special_tokens_map.items()
        if isinstance(value, (str, list))
    }


def _cache_name(model: Any) -> str:
    """Return what forward() calls the cache: transformers 5.24 renamed it, other code did not."""
    known = inspect.signature(model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def _layers(model: Any) -> list[Any]:
    """Return the model's layers: the longest lists of equal modules."""
    lists = [one for one in model.modules() if isinstance(one, torch.nn.ModuleList)]
    count = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    return [layer for one in lists if len(one) == count for layer in one]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends an answer: the three places do not always agree."""
    places = (model.generation_config, model.config.get_text_config(), tokenizer)
    found: list[int] = []
    for place in places:
        tokens = getattr(place, "eos_token_id", None)
        found += tokens if isinstance(tokens, list) else [tokens]
    return list(dict.fromkeys(token for token in found if token is not None))


def _drawn_as(config: Any) -> dict[str, Any]:
    """Return how the model's authors want its tokens drawn."""
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
    said = {name: getattr(config, name, None) for name in names}
    return DRAWN_AS | {name: value for name, value in said.items() if value is not None}


def _context_of(model: Any, tokenizer: Any) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = [length for length in (positions, tokenizer.model_max_length) if length]
    return min([int(length) for length in known if length < 1e9], default=4096)
