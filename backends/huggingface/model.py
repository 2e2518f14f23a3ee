"""A loaded transformers model and its tokenizer: forward(), generate(), special tokens, memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from backends._local.model_files import template_files
from backends._local.model_files.sniff import printable
from backends._local.request import Request
from backends._local.templates.chat_template import PLAIN, PLAIN_TURNS, ChatTemplate
from backends._local.templates.tool_format import offers_functions
from backends._local.tokenizing.rendering import Template
from kuwa_min.chat.thinking.answer_text import Splitter
from kuwa_min.chat.thinking.formats import Wrappers
from kuwa_min.chat.thinking.splitter import PROMPT_END, ThoughtSplitter
from kuwa_min.errors import StartError

from .detokenizer import detokenizer_factory
from .device import cards, errors
from .loading import facts
from .loading.folder import load
from .loading.load_options import LoadOptions, Progress
from .tokenizer import LibraryTokenizer

logger = logging.getLogger(__name__)

AttentionMask = torch.Tensor | dict[str, torch.Tensor] | None  # as forward() takes it
MAX_NAMES = 5  # of tokens without weights, in the log


class Aborted(Exception):
    """Report that a forward pass was left because all its requests should stop."""


class TransformersModel:
    """A loaded model. tokenizer is for any thread, all else for the engine's."""

    def __init__(
        self,
        options: LoadOptions,
        progress: Progress,
        *,
        chat_template: str | None = None,
        generate_options: Mapping[str, Any] | None = None,
        eos_token_ids: Sequence[int] = (),
    ) -> None:
        """Load it; raises StartError, UsageError or TemplateError.

        progress: called with (done, total); chat_template: instead of its own; generate_options:
        those that only generate() implements; eos_token_ids: in addition to its own.
        """
        self.generate_options = dict(generate_options or {})
        self._options = options
        self._config, self.processor, self._tokenizer, self._model = load(options, progress)
        self.special_tokens = facts.special_tokens(self._tokenizer)
        self.markup = facts.markup(self._tokenizer)
        self._response_template = _response_template(self._tokenizer)
        self.embeddings = facts.embeddings(self._model, len(self._tokenizer))  # tokens with weights
        self.vocabulary_size = min(len(self._tokenizer), self.embeddings)
        self.turn_markers: tuple[str, ...] = ()
        self.create_detokenizer = detokenizer_factory(self._tokenizer)
        self.accepts_several_images = False
        if self.processor is None:
            self.chat_template = self._choose_template(options, chat_template)
            self.template_variables = self.chat_template.variables
            self.offers_functions = offers_functions(self.chat_template)
        else:
            self.vision_template = self._choose_vision_template(options.model_path, chat_template)
            self.accepts_several_images = self._accepts_several_images()
        self.tokenizer = self._library_tokenizer(options.model_path)
        ends = [*facts.eos_token_ids(self._model, self._tokenizer), *eos_token_ids]
        self.eos_token_ids = frozenset(token for token in ends if token < self.embeddings)
        self.context_length = facts.context_length(self._model, self._tokenizer)
        self.device: torch.device = self._model.device
        places = {one.device for one in self._model.parameters()}
        self.gpus = sorted((one for one in places if one.type == "cuda"), key=str)
        self.is_on_one_gpu = len(places) == len(self.gpus) == 1
        self.cache_argument = facts.cache_argument(self._model)
        self._watched: tuple[Request, ...] = ()
        for layer in facts.layers(self._model):
            layer.register_forward_pre_hook(self._abort_if_unwanted)
        info = self.info()
        logger.info(
            "loaded %s: %s, %s on %s, context of %d tokens",
            options.model_path,
            *(info[name] for name in ("model", "dtype", "device", "context")),
        )

    def info(self) -> dict[str, Any]:
        """Return facts about the model for /status."""
        return {
            "model": type(self._model).__name__,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": str(self._model.device),
            "context": self.context_length,
            **({"memory": cards.memory(self.gpus)} if self.gpus else {}),
        }

    def files(self) -> list[Path]:
        """Return the files of the model and of its adapters; none of a model from the hub."""
        return self._options.files()

    def state_facts(self) -> dict[str, Any]:
        """Return what keys and values depend on beside the files."""
        commit = getattr(self._config, "_commit_hash", None)
        return {
            "library": [transformers.__version__, torch.__version__],
            "model": [commit, self._model.dtype, self.device, *self._options.computed_with()],
            "context": self.context_length,
            "attention": self._config._attn_implementation,
        }

    def _choose_template(self, options: LoadOptions, override: str | None) -> ChatTemplate:
        template = override or template_files.default_of(self._tokenizer.chat_template)
        if template:
            return ChatTemplate(template, **self.special_tokens)
        hint = template_files.hint(Path(options.path))
        self._warn_of_plain_template(options.model_path, hint)
        bos = self._tokenizer.bos_token_id
        adds_bos = bos is not None and bos in self._tokenizer("").input_ids
        return ChatTemplate(PLAIN, bos_token=self._tokenizer.bos_token if adds_bos else "")

    def _choose_vision_template(self, path: str, override: str | None) -> str:
        from .vision import own_template, plain_template

        template = override or own_template(self.processor)
        if not template:
            self._warn_of_plain_template(path)
            self.template_variables, self.offers_functions = frozenset[str](), False
            return plain_template(self.processor)
        compiled = ChatTemplate(template)  # raises TemplateError
        self.template_variables = compiled.variables
        self.offers_functions = offers_functions(compiled)
        return template

    def _warn_of_plain_template(self, path: str, hint: str = "") -> None:
        logger.warning("%s has no chat template%s; a plain one is used", path, hint)
        self.turn_markers = PLAIN_TURNS

    def _accepts_several_images(self) -> bool:
        from .vision import accepts_several_images

        several = accepts_several_images(self.processor, self.vision_template)
        if not several:
            logger.info("its processor takes one picture a chat: the last one is shown")
        return several

    def _library_tokenizer(self, path: str) -> LibraryTokenizer:
        if self.processor is None:
            template: Template = self.chat_template
        else:
            from .vision import VisionTemplate

            template = VisionTemplate(self.processor, self.vision_template)
        made = LibraryTokenizer(self._tokenizer, self.markup, template, self.embeddings)
        names = [one.text for one in made.weightless]
        if names and self.processor is None:
            logger.warning(
                "%s has no weights for %d tokens of its tokenizer, which prompts spell out: %s",
                path,
                len(names),
                ", ".join(map(printable, names[:MAX_NAMES])),
            )
        return made

    def create_splitter(self, prompt_ids: Sequence[int], wrappers: Wrappers) -> Splitter:
        """Return what tells thoughts from the answer to a prompt, which may end within one.

        wrappers: tags around the answer that are markup.
        """
        prompt_end = self._tokenizer.decode(list(prompt_ids[-PROMPT_END:]))
        if self._response_template is not None:
            from .response_splitter import ResponseSplitter

            return ResponseSplitter(self._response_template, prompt_end)
        return ThoughtSplitter(prompt_end, wrappers=wrappers)

    # -- computing

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        mask: AttentionMask,
        cache: transformers.Cache,
        *,
        logits_to_keep: torch.Tensor | int = 1,
    ) -> torch.Tensor:
        """Return the logits [sequences, kept, vocabulary] after input_ids [sequences, tokens].

        logits_to_keep: the positions of the tokens whose logits are computed, or how many of the
        last ones.
        """
        logits: torch.Tensor = self._model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=mask,
            use_cache=True,
            logits_to_keep=logits_to_keep,
            **{self.cache_argument: cache},
        ).logits
        return logits

    def generate(self, **options: Any) -> Any:
        """Return the tokens of whole sequences, as the library generates them."""
        return self._model.generate(**options)

    @contextlib.contextmanager
    def aborting_with(self, *requests: Request) -> Iterator[None]:
        """Raise Aborted at the next layer of a forward pass once all these requests should stop."""
        self._watched = requests
        try:
            yield
        finally:
            self._watched = ()

    def _abort_if_unwanted(self, *_: Any) -> None:
        if self._watched and all(request.should_stop for request in self._watched):
            raise Aborted

    # -- what a sequence needs

    def max_completion_tokens(self, request: Request) -> int:
        """Return how many tokens of a completion the context has room for."""
        if self._config.is_encoder_decoder:
            return self.context_length  # the prompt is in the encoder's own context
        return self.context_length - len(request.prompt_ids)

    # -- the library's objects

    @property
    def text_config(self) -> Any:
        """Return the configuration of the text decoder."""
        return self._model.config.get_text_config(decoder=True)

    @property
    def library_model(self) -> Any:
        """Return the library's model."""
        return self._model

    # -- memory

    @staticmethod
    def is_out_of_memory(error: Exception) -> bool:
        """Tell whether memory ran out, of a GPU or of the machine."""
        return errors.is_out_of_memory(error)

    def check_device(self, failure: BaseException) -> None:
        """Raise DeviceLost if a failure says, or the GPUs do, that they compute nothing any more.

        Waits for what they compute.
        """
        errors.check(failure, self.gpus)

    def check_usable(self, failure: Exception) -> None:
        """Raise if a failure at the start is the device's: no other way of computing helps then.

        Raises the failure itself if memory ran out, else StartError.
        """
        self.check_device(failure)
        if self.is_out_of_memory(failure):
            raise failure
        if errors.is_of_device(failure):
            reason = errors.first_line(failure)
            raise StartError(f"the model cannot be computed: {reason}") from None

    @staticmethod
    def free_memory() -> None:
        """Return cached GPU memory; call it outside of `except`: tracebacks keep tensors alive."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _response_template(tokenizer: Any) -> Any:
    """Return the template by which transformers parses answers; None if it has or knows none."""
    if getattr(tokenizer, "response_template", None) is None:  # before 5.24, none has
        return None
    from .response_splitter import load_template

    return load_template(tokenizer)
