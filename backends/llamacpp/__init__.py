"""[On-premises model] Run the GGUF model locally."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from backends._local.executor import ModelExecutor
from backends._local.machine import visible_gpus
from backends._local.model import Model
from backends._local.model_files import resolve
from backends._local.options import read_chat_template
from backends._local.prompts import pictures
from backends._local.prompts.encoder import ChatInput
from backends._local.request import Request
from backends._local.scheduler import Scheduler
from backends._local.tokenizing.template_variables import Variables
from backends._media import attachments, file_types
from backends._media.attachments import AttachmentReader
from backends._media.fetch_policy import policy
from kuwa_min import Modelfile
from kuwa_min.chat.catalog import BAD_OPTION
from kuwa_min.chat.modelfile import Message
from kuwa_min.chat.sentence import sentence_of
from kuwa_min.errors import AnswerError, UsageError
from kuwa_min.options import constraint, generation_options, types
from kuwa_min.options.generation_options import Option, wants_multimodal
from kuwa_min.options.thinking import LOCAL_OPTIONS

from . import arguments, model_options
from .loading import adapter_files, tensor_overrides
from .loading.adapter_files import NONE
from .vision import mmproj_file

if TYPE_CHECKING:
    from .model import LlamaModel

REQUIRES: dict[str, str] = {
    "llama_cpp": "llama-cpp-python>=0.3.36",
    "jinja2": "jinja2>=3.1.6",
    "llguidance": "llguidance>=1.6",
    "PIL": "pillow>=11.0",
}
# OpenMP's threads wait for each other some hundred times a token. By default a waiting thread spins
# for up to a millisecond; where other processes use the cores, the thread that is waited for gets
# none meanwhile: a start was seen to take 11 s instead of 1. So that they spin less.
WAIT_POLICY, SPIN_COUNT = "OMP_WAIT_POLICY", "10000"
OPTIONS = (
    Option(
        "max_tokens",
        int,
        None,
        "longest answer in tokens; None, 0: all that fit",
        least=-1,
        aliases=("max_new_tokens", "num_predict"),
    ),
    Option("temperature", float, 0.8, "how freely to draw; 0: take the likeliest", least=0),
    Option("top_k", int, 40, "draw from the k likeliest tokens; 0: from all", least=-1),
    Option("top_p", float, 0.95, "draw from this share of the tokens", least=0),
    Option("min_p", float, 0.05, "least share of the likeliest token's probability", least=0),
    Option("typical_p", float, 1.0, "draw from the typical tokens; 1: off", least=0),
    Option("seed", int, None, "seed of the draw; None, -1: another one each time", least=-1),
    Option(
        "repeat_penalty",
        float,
        1.0,
        "above 1, avoid what was said before",
        least=0.01,
        aliases=("repetition_penalty",),
    ),
    Option("frequency_penalty", float, 0.0, "avoid tokens the more, the more often said", least=-2),
    Option("presence_penalty", float, 0.0, "avoid tokens that were said", least=-2),
    Option(
        "mirostat_mode",
        int,
        0,
        "1 or 2 hold the surprise steady; 0: off",
        least=0,
        aliases=("mirostat",),
    ),
    Option("mirostat_tau", float, 5.0, "the surprise that mirostat holds", least=0),
    Option("mirostat_eta", float, 0.1, "how fast mirostat learns", least=0),
    Option("stop", list, None, "end an answer before these texts", aliases=("stop_strings",)),
    Option("stop_token_ids", list[int], None, "end an answer at these tokens", least=0),
    *LOCAL_OPTIONS,
    *constraint.OPTIONS,
)
PICTURE_METRICS = {
    "entries": "Encoded pictures in memory.",
    "bytes": "Bytes of encoded pictures.",
    "encoded_total": "Pictures that were encoded.",
    "reused_total": "Pictures of chats that had been encoded before.",
}
IGNORED = {"tfs_z": float, "logprobs": int}  # options of Kuwa's llamacpp


class LlamacppExecutor(ModelExecutor):
    """Run a GGUF file with llama.cpp, several sequences at once."""

    access_code = "llamacpp"
    table = OPTIONS
    own_options = "general.sampling.* of the model's file"
    model: LlamaModel

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of loading, then those of prompts and generation."""
        arguments.add_arguments(parser.add_argument_group("options of the model").add_argument)
        attachments.add_arguments(parser.add_argument_group("options of pictures").add_argument)
        super().extend_arguments(parser)
        group = parser.add_argument_group("options of Kuwa's own llamacpp without effect here")
        for name, kind in IGNORED.items():
            group.add_argument(f"--{name}", type=kind, help="accepted, and named in the log")

    def prepare(self) -> None:
        """Set the environment variables that the library reads when it is imported."""
        visible_gpus.restrict(self.args.visible_gpu)
        if WAIT_POLICY not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

    def library(self) -> generation_options.Library:
        """Return the generation options that llama-cpp-python has beyond the table."""
        from . import options

        return options.library(IGNORED)

    def read_settings(self) -> dict[str, Any]:
        """Merge what the model says, the -c file and the command line; log what has no effect."""
        self.path, header = resolve.gguf_file(self.args.model_path)
        self.adapter_files = adapter_files.find(self.args.lora, header)
        self.overrides = tensor_overrides.from_arguments(self.args)
        given = {name: vars(self.args)[name] for name in IGNORED}
        ignored = {name: value for name, value in given.items() if value is not None}
        more = [("the command line", ignored)]
        self.mmproj = mmproj_file.find(self.path, self.args.mmproj)
        own = model_options.read(header.fields, self.args.model_path)
        return generation_options.settings(
            self.table, self.args, self.library, model=own, more=more
        )

    def loader(self) -> Callable[[], Model]:
        """Import llama.cpp; return what loads the model."""
        flash_attn = self._flash_attention()
        progress = self.loading_progress()
        from . import fatal_errors
        from .batching.context_params import ContextOptions
        from .model import LlamaModel

        fatal_errors.on_end(lambda reason: self.engine.abandon(reason))
        return partial(
            LlamaModel,
            self.path,
            progress,
            gpu_layers=types.unless_auto(self.args.ngl),
            visible_gpu=self.args.visible_gpu,
            tensor_split=self.args.tensor_split,
            overrides=self.overrides,
            context_length=types.unless_auto(self.args.context_window),
            context_options=ContextOptions(
                types.unless_auto(self.args.threads),
                flash_attn=flash_attn,
                cache_type=self.args.cache_type,
            ),
            slots=self.args.concurrent_req_limit,
            chat_template=read_chat_template(self.args.override_chat_template),
            adapter_files=self.adapter_files,
            mmproj=self.mmproj,
        )

    def request_options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Merge what a Modelfile asks for; its "llm_lora none", read as None, is a choice, too."""
        options = super().request_options(asked)
        return options | {"lora": NONE} if asked.get("lora", "") is None else options

    def create_request(self, history: list[Message], modelfile: Modelfile) -> Request:
        """Make a request of a chat, with the adapters of its llm_lora; raises AnswerError."""
        request = super().create_request(history, modelfile)
        try:
            request.adapters = self.model.adapters.choose(request.options.get("lora"))
        except ValueError as error:
            raise AnswerError(BAD_OPTION.format(sentence_of(error))) from None
        return request

    def create_scheduler(self, slots: int) -> Scheduler:
        """Return the scheduler for up to `slots` concurrent sequences of the loaded model."""
        from .scheduler_factory import create_scheduler

        return create_scheduler(
            self.model, slots, self.cache_settings, reproducible=self.args.reproducible
        )

    # -- pictures

    def setup(self) -> None:
        """Read the options, load the model, start its engine, and prepare to fetch pictures."""
        super().setup()
        self.attachments = AttachmentReader(
            policy(self.args), file_types.IMAGE_TYPES, self.args.max_attachments
        )
        if encoder := self.model.picture_encoder:
            self.describe(pictures=encoder.facts)
            for name, text in PICTURE_METRICS.items():
                fact = name.removesuffix("_total")
                self.measure(f"pictures_{name}", text, partial(encoder.fact, fact))

    def accepts_images(self) -> bool:
        """Tell whether the model reads images."""
        return self.model.picture_encoder is not None

    def encoder_for(
        self, history: list[Message], modelfile: Modelfile, variables: Variables
    ) -> ChatInput:
        """Return the encoder for a request, and the history with placeholders for its images."""
        encoder = self.model.picture_encoder
        if encoder is None or wants_multimodal(modelfile.parameters["llm_"]) is False:
            return super().encoder_for(history, modelfile, variables)
        from .vision.encoder import VisionEncoder, prepare

        chat = pictures.fetch(self.attachments, history, self.on_stop)
        chat, known = prepare(chat, encoder, self.prompt_limit.tokens)
        template = self.template_of(modelfile)
        vision = VisionEncoder(
            template, self.prompt_tokenizer, variables, pictures=known, encoder=encoder
        )
        return ChatInput(self.folding_system(vision, modelfile), chat.history, chat.notes)

    def interrupt_loading(self) -> None:
        """End what the engine's thread computes; reading the file ends by loading_progress()."""
        if hasattr(self, "model"):
            self.model.abort()

    def _flash_attention(self) -> str:
        """Return "on", "off", or "auto", which llama.cpp decides; raises UsageError."""
        wanted, cache_type = self.args.flash_attn, self.args.cache_type
        if cache_type in arguments.UNQUANTIZED:
            return str(wanted)
        if wanted == "off":
            raise UsageError(f"--cache_type {cache_type} needs --flash_attn on; f16 and f32 do not")
        return "on"
