"""Load a model with transformers and compute one answer at a time by its generate()."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any, cast

import jinja2
import torch
import transformers
from tokenizers.decoders import DecodeStream

from kuwa_min.errors import AnswerError, StartError, UsageError
from kuwa_min.modelfile import Message
from kuwa_min.prompt import OUT_OF_MEMORY

from ._engine import Request
from ._model_executor import FULL, RefusedTemplate, chat_template
from ._transformers_stream import SlowDecoder, Streamer, UntilOver

logger = logging.getLogger(__name__)

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
)


class TransformersModel:
    """A model folder in memory, with its tokenizer."""

    def __init__(self, path: str, args: argparse.Namespace) -> None:
        _quieten()
        self._device = _choose_device(args)
        self._tokenizer = _load(path, _tokenizer_of, args)
        self._model = _load(path, self._model_of, args)
        self._template = chat_template(args.override_chat_template) or self._own_template(path)
        self._ends = _end_tokens(self._model, self._tokenizer)
        self.context = _context_of(self._model, self._tokenizer)
        logger.info(
            "loaded %s: %s on %s, context of %d tokens",
            type(self._model).__name__,
            str(self._model.dtype).removeprefix("torch."),
            self._model.device,
            self.context,
        )

    def _model_of(self, path: str, args: argparse.Namespace) -> Any:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            dtype=args.dtype if args.dtype == "auto" else getattr(torch, args.dtype),
            device_map=self._device,
            trust_remote_code=args.trust_remote_code,
            use_safetensors=True if args.safetensors_only else None,
        )
        return model.eval()

    def _own_template(self, path: str) -> str | None:
        if self._tokenizer.chat_template:
            return None  # the tokenizer uses its own
        logger.warning("%s has no chat template; a plain one is used", path)
        return PLAIN_TEMPLATE

    def render(self, chat: list[Message]) -> list[int]:
        """Return the tokens of a chat; raises RefusedTemplate if the template refuses it."""
        try:
            tokens = self._tokenizer.apply_chat_template(
                chat,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise RefusedTemplate(str(error).partition("\n")[0]) from None
        return cast("list[int]", tokens)

    def compute(self, request: Request) -> None:
        """Say the answer's text to the request until it is over."""
        try:
            return self._generate(request)
        except (torch.OutOfMemoryError, MemoryError) as error:
            logger.error("out of memory: %s", str(error).partition("\n")[0])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # only now: the exception held on to what it computed
        raise AnswerError(OUT_OF_MEMORY)

    def _generate(self, request: Request) -> None:
        room = self.context - len(request.prompt)
        streamer = Streamer(request, self._decoder(), ends=self._ends)
        wanted = {name: value for name, value in request.options.items() if value is not None}
        seed, most = wanted.pop("seed", None), wanted.pop("max_new_tokens")
        torch.manual_seed(torch.seed() if seed is None else seed)
        tokens = torch.tensor([request.prompt], device=self._model.device)
        self._model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            streamer=streamer,
            stopping_criteria=transformers.StoppingCriteriaList([UntilOver(request)]),
            eos_token_id=self._ends or None,
            pad_token_id=self._ends[0] if self._ends else 0,
            max_new_tokens=min(most, room),
            **wanted,
        )
        if streamer.count == room < most and not streamer.ended:
            request.note(FULL.format(self.context))

    def _decoder(self) -> Callable[[int], str]:
        """Return what makes text of an answer's tokens, one after the other."""
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        if fast is None:
            return SlowDecoder(self._tokenizer).step
        stream = DecodeStream([], skip_special_tokens=True)
        return lambda token: stream.step(fast, token) or ""


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


def _tokenizer_of(path: str, args: argparse.Namespace) -> Any:
    return transformers.AutoTokenizer.from_pretrained(
        path, trust_remote_code=args.trust_remote_code
    )


def _load(
    path: str, load: Callable[[str, argparse.Namespace], Any], args: argparse.Namespace
) -> Any:
    try:
        return load(path, args)
    except (torch.OutOfMemoryError, MemoryError):
        raise StartError(f"{path} does not fit into memory; a smaller --dtype may") from None
    except Exception as error:  # the library raises whatever its readers raise
        logger.debug("loading failed", exc_info=True)
        reason = " ".join(str(error).split())[:300]
        raise StartError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from None


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends an answer: the three places do not always agree."""
    places = (model.generation_config, model.config.get_text_config(), tokenizer)
    found: list[int] = []
    for place in places:
        tokens = getattr(place, "eos_token_id", None)
        found += tokens if isinstance(tokens, list) else [tokens]
    return list(dict.fromkeys(token for token in found if token is not None))


def _context_of(model: Any, tokenizer: Any) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = [length for length in (positions, tokenizer.model_max_length) if length]
    return min([int(length) for length in known if length < 1e9], default=4096)
