"""Load a model folder with transformers: the model, its tokenizer, and what others ask of them."""

from __future__ import annotations

import argparse
import contextlib
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import transformers

from kuwa_min.errors import KuwaError, StartError, UsageError

from ._chat_template import PLAIN, ChatTemplate
from ._engine import Batch, OneByOne, Request
from ._model_executor import chat_template
from ._transformers_masks import Layout, Mask
from ._transformers_sampling import Sampler
from ._transformers_text import create_decoder

logger = logging.getLogger(__name__)

DRAWN_AS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}  # where neither model nor user says it
Progress = Callable[[int, int], None]  # called with what is done and what is to do
CPU_MEMORY = "DefaultCPUAllocator"  # begins what torch says when the processor's memory is full


class Stopped(Exception):
    """Leave a forward pass: nobody wants what it computes."""


class TransformersModel:
    """A model folder in memory, with its tokenizer."""

    layout: Layout  # how its layers can be batched; set by whoever finds out

    def __init__(self, path: str, args: argparse.Namespace, progress: Progress) -> None:
        _quieten()
        self._placement = _choose_device(args)
        with _showing(progress), _explaining(path):
            self._config = transformers.AutoConfig.from_pretrained(path, **_trust(args))
            self.processor = self._load_processor(path, args)
            self._tokenizer = self._load_tokenizer(path, args)
            self._model = self._load_model(path, args)
        self.names = _names(self._tokenizer)
        if self.processor is None:
            self.template = self._choose_template(path, args.override_chat_template)
        else:
            self.vision_template = self._choose_vision_template(path, args.override_chat_template)
        self.ends = frozenset(_end_tokens(self._model, self._tokenizer))
        self.context = _context_of(self._model, self._tokenizer)
        self.device: torch.device = self._model.device
        self._drawn_as = _drawn_as(self._model.generation_config)
        self._engine = "unknown yet"
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
            "engine": self._engine,
        }

    def _load_processor(self, path: str, args: argparse.Namespace) -> Any:
        """Return what prepares pictures, or None for a model of text alone."""
        if not _sees(self._config):
            return None
        from ._transformers_vision import load_processor

        return load_processor(path, args)

    def _load_tokenizer(self, path: str, args: argparse.Namespace) -> Any:
        if self.processor is not None and not args.tokenizer:
            return self.processor.tokenizer
        return transformers.AutoTokenizer.from_pretrained(args.tokenizer or path, **_trust(args))

    def _load_model(self, path: str, args: argparse.Namespace) -> Any:
        loader = transformers.AutoModelForCausalLM
        if self.processor is not None:
            loader = transformers.AutoModelForImageTextToText
        elif self._config.is_encoder_decoder:
            loader = transformers.AutoModelForSeq2SeqLM
        more = {}
        if args.load_8bits:
            more["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=True)
        model = loader.from_pretrained(
            path,
            dtype=args.dtype if args.dtype == "auto" else getattr(torch, args.dtype),
            device_map=self._placement,
            use_safetensors=True if args.safetensors_only else None,
            **_trust(args),
            **more,
        )
        return model.eval()

    def _choose_template(self, path: str, override: str | None) -> ChatTemplate:
        own = self._tokenizer.chat_template
        template = chat_template(override) or (own.get("default") if isinstance(own, dict) else own)
        if template:
            return ChatTemplate(template, **self.names)
        logger.warning("%s has no chat template; a plain one is used", path)
        begin = self._tokenizer.bos_token_id
        begins = begin is not None and begin in self._tokenizer("").input_ids
        return ChatTemplate(PLAIN, bos_token=self._tokenizer.bos_token if begins else "")

    def _choose_vision_template(self, path: str, override: str | None) -> str:
        from ._transformers_vision import own_template

        template = chat_template(override) or own_template(self.processor, path)
        ChatTemplate(template)  # says what is wrong with it, if something is
        return template

    # -- what the chat's thread asks

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a chat that a template has written down."""
        # the template writes the first token itself
        return cast("list[int]", self._tokenizer(text, add_special_tokens=False).input_ids)

    # -- what the engine asks

    def create_batch(self, slots: int) -> Batch:
        """Return what computes as many chats at once as this model can, up to so many."""
        from ._transformers_batch import RowsBatch
        from ._transformers_check import why_alone
        from ._transformers_generate import Generate

        reason = why_alone(self)
        if not reason:
            self._engine = f"{slots} at once"
            return RowsBatch(self, slots)
        self._engine = f"one at a time: {reason}"
        logger.warning("chats are computed one at a time, by generate(): %s", reason)
        return OneByOne(Generate(self))

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
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=wanted,
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

    def create_sampler(self, request: Request) -> Sampler:
        """Return what chooses the tokens of an answer."""
        options = {
            name: self._drawn_as.get(name) if value is None else value
            for name, value in request.options.items()
        }
        return Sampler(options, request.prompt, sorted(self.ends))

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

    def synchronize(self) -> None:
        """Wait until what was begun on a graphics card is computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _quieten() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _choose_device(args: argparse.Namespace) -> str | None:
    """Return a device map; raises StartError if a GPU was asked for and none is usable."""
    if args.device != "auto":
        _check_device(args.device)
    asked = args.visible_gpu if args.device == "auto" else args.device.startswith("cuda")
    if torch.cuda.is_available() and args.device == "auto":
        return "auto" if torch.cuda.device_count() > 1 else "cuda:0"
    if asked and not torch.cuda.is_available():
        option = "--visible_gpu" if args.device == "auto" else f"--device {args.device}"
        raise StartError(
            f"{option} asks for a GPU, but torch {torch.__version__} finds none that it can use"
            f"{_why_no_gpu()}; --device cpu computes on the processor"
        )
    return None if args.device in ("auto", "cpu") else str(args.device)


def _check_device(name: str) -> None:
    try:
        torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is no device: auto, cpu, cuda or cuda:N") from None


def _why_no_gpu() -> str:
    return "" if torch.version.cuda else " (it was built without CUDA)"


def _trust(args: argparse.Namespace) -> dict[str, bool]:
    return {"trust_remote_code": args.trust_remote_code}


def _sees(config: Any) -> bool:
    """Tell whether a model of this configuration reads pictures and says text."""
    known = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return known or "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})


@contextlib.contextmanager
def _explaining(path: str) -> Iterator[None]:
    """Say in one line why a model cannot be loaded."""
    try:
        yield
    except KuwaError:
        raise
    except (torch.OutOfMemoryError, MemoryError):
        raise StartError(f"{path} does not fit into memory; a smaller --dtype may") from None
    except pickle.UnpicklingError:
        raise StartError(
            f"{path} cannot be loaded: a .bin file of it holds more than weights, and reading that "
            "could run somebody's code; take the model's .safetensors files"
        ) from None
    except Exception as error:  # the library raises whatever its readers raise
        logger.debug("loading failed", exc_info=True)
        reason = " ".join(str(error).split())[:300]
        reason = "".join(filter(str.isprintable, reason))
        raise StartError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from None


@contextlib.contextmanager
def _showing(progress: Progress) -> Iterator[None]:
    """Report the library's progress as ours, weight by weight."""

    def follow(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
        things = list(args[0] if args else options["iterable"])
        progress(0, len(things))
        for done, thing in enumerate(things, 1):
            yield thing
            progress(done, len(things))

    former = transformers.logging.set_tqdm_hook(follow)
    try:
        yield
    finally:
        transformers.logging.set_tqdm_hook(former)


def _names(tokenizer: Any) -> dict[str, Any]:
    """Return the special tokens as templates know them."""
    return {
        name: value
        for name, value in tokenizer.special_tokens_map.items()
        if isinstance(value, (str, list))
    }


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
