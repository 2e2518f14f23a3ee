"""[On-premises model] Download and run Huggingface model locally."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from backends._local.executor import ModelExecutor
from backends._local.machine import visible_gpus
from backends._local.model import Model
from backends._local.options import MAX_VALUES, read_chat_template
from backends._local.prompts import pictures
from backends._local.prompts.encoder import ChatInput, PromptEncoder
from backends._local.scheduler import Scheduler
from backends._local.tokenizing.template_variables import NO_VARIABLES, Variables
from backends._media import attachments, file_types
from backends._media.attachments import AttachmentReader
from backends._media.fetch_policy import LinkError, policy
from kuwa_min import Modelfile
from kuwa_min.chat.modelfile import Message, convert_value
from kuwa_min.options import constraint, generation_options, types
from kuwa_min.options.generation_options import Option
from kuwa_min.options.thinking import LOCAL_OPTIONS
from kuwa_min.options.types import from_json

from . import arguments, model_options
from .loading import folders
from .options import SAMPLING_OPTIONS, generate_options, library, without_adapters, without_neutral

if TYPE_CHECKING:
    from .model import TransformersModel
    from .vision import VisionEncoder

logger = logging.getLogger(__name__)

REQUIRES: dict[str, str] = {
    "torch": "torch>=2.6",
    "transformers": "transformers>=5.5.0",
    "tokenizers": "tokenizers>=0.22",
    "safetensors": "safetensors>=0.4.3",
    "accelerate": "accelerate>=1.0",
    "jinja2": "jinja2>=3.1.6",
    "llguidance": "llguidance>=1.6",
    "PIL": "pillow>=11.0",
}
IMAGE_SHARE = 2  # images may have 1/2 of a prompt's tokens
# Options of torch's GPU memory. A KV cache that grows leaves holes, unless segments can grow. The
# first name counts in all versions of torch; 2.9 to 2.11 read only that one for this option.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
BEAM_OPTIONS = ("length_penalty", "early_stopping", "renormalize_logits")
OPTIONS = (
    Option(
        "max_new_tokens",
        int,
        4096,
        "longest answer in tokens; 0, -1: all that fit",
        least=-1,
        aliases=("max_tokens", "num_predict"),
    ),
    Option("do_sample", bool, False, "draw tokens instead of taking the likeliest"),
    Option("temperature", float, None, "how freely to draw, 0: not; None: 1", least=0),
    Option("top_k", int, None, "draw from the k likeliest, 0 or -1: all; None: 50", least=-1),
    Option("top_p", float, None, "draw from this share of them; None: 1", least=0),
    Option("min_p", float, None, "least share of the likeliest token's probability", least=0),
    Option("typical_p", float, None, "draw from the typical tokens; 1: off", least=0.01),
    Option("epsilon_cutoff", float, None, "never draw what is less probable than this", least=0),
    Option("eta_cutoff", float, None, "the same, less strict where all are improbable", least=0),
    Option("seed", int, None, "seed of the draw; None, -1: another one each time", least=-1),
    Option("min_new_tokens", int, None, "shortest answer in tokens", least=0),
    Option(
        "repetition_penalty",
        float,
        1.0,
        "above 1, avoid what was said before",
        least=0.01,
        aliases=("repeat_penalty",),
    ),
    Option("no_repeat_ngram_size", int, 0, "never repeat n-grams of this size; 0: off", least=0),
    Option("stop", list, None, "end an answer before these texts", aliases=("stop_strings",)),
    Option("stop_token_ids", list[int], None, "end an answer at these tokens", least=0),
    *LOCAL_OPTIONS,
    *constraint.OPTIONS,
)


class HuggingfaceExecutor(ModelExecutor):
    """Run a folder of the transformers library: text models batched, vision models serially."""

    access_code = "huggingface"
    table = OPTIONS
    own_options = "the model's generation_config.json"

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of loading, then those of prompts and generation."""
        arguments.add_arguments(parser.add_argument_group("options of the model").add_argument)
        attachments.add_arguments(parser.add_argument_group("options of pictures").add_argument)
        super().extend_arguments(parser)
        parser.add_argument(
            "--generation_kwargs",
            nargs="*",
            type=_pair,
            default=[],
            metavar="NAME=VALUE",
            help="generation options, as one list",
        )

    def check_arguments(self, carried: Collection[str] | None) -> Iterator[str]:
        """Yield what --check says of the model's folder."""
        return folders.check_arguments(self.args, carried)

    def prepare(self) -> None:
        """Set the environment variables that the libraries read when they are imported."""
        visible_gpus.restrict(self.args.visible_gpu)
        offline = str(int(not self.args.online))
        os.environ.update(HF_HUB_OFFLINE=offline, TRANSFORMERS_OFFLINE=offline)
        if not any(os.environ.get(name) for name in ALLOCATOR):
            os.environ[ALLOCATOR[0]] = "expandable_segments:True"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _private_folder())

    def library(self) -> generation_options.Library:
        """Return the generation options that transformers has beyond the table."""
        return library()

    def read_settings(self) -> dict[str, Any]:
        """Merge what the model says, the -c file, --generation_kwargs and the command line."""
        self.load_options = folders.load_options(self.args)
        names = [name for option in self.table for name in (option.name, *option.aliases)]
        own = model_options.read(self.load_options["path"], self.args.model_path, names)
        self.load_options["special_ids"] = own.special_ids
        pairs = {name: from_json(convert_value(text)) for name, text in self.args.generation_kwargs}
        settings = generation_options.settings(
            self.table,
            self.args,
            self.library,
            model=(own.place, own.values),
            more=[("--generation_kwargs", pairs)],
        )
        self._warn_of_greedy(settings, own.values)
        settings = without_neutral(settings)
        beams = [name for name in BEAM_OPTIONS if name in settings]
        if beams and "num_beams" not in settings:
            logger.warning("without num_beams, these do nothing: %s", ", ".join(beams))
            settings = {name: value for name, value in settings.items() if name not in beams}
        self.timeout = self.timeout or settings.pop("max_time", None)
        return settings

    @staticmethod
    def _warn_of_greedy(settings: dict[str, Any], own: dict[str, Any]) -> None:
        """Name the operator's options that do nothing without do_sample."""
        names = (*SAMPLING_OPTIONS, "seed")
        idle = [name for name in names if settings[name] not in (None, own.get(name))]
        if idle and not settings["do_sample"]:
            logger.warning("without --do_sample true, these do nothing: %s", ", ".join(idle))

    def request_options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Sample, also without llm_do_sample, if the Modelfile says how."""
        options = super().request_options(without_adapters(asked))
        options["seed"] = None if options["seed"] == -1 else options["seed"]
        if options["max_new_tokens"] < 1:
            options["max_new_tokens"] = MAX_VALUES["max_new_tokens"]
        if asked.get("do_sample") is None:
            says_how = any(asked.get(name) is not None for name in SAMPLING_OPTIONS)
            options["do_sample"] = options["do_sample"] or says_how
        return options

    def loader(self) -> Callable[[], Model]:
        """Import the libraries; return what loads the model."""
        options = self.load_options
        if options["load_8bits"]:
            folders.check_8bits()
        progress = self.loading_progress()
        from .loading.load_options import LoadOptions
        from .model import TransformersModel

        eos_token_ids = self.settings.pop("eos_token_id", [])
        if isinstance(eos_token_ids, int):
            eos_token_ids = [eos_token_ids]
        return partial(
            TransformersModel,
            LoadOptions(**options),
            progress,
            chat_template=read_chat_template(self.args.override_chat_template),
            generate_options=generate_options(self.settings),
            eos_token_ids=eos_token_ids,
        )

    def setup(self) -> None:
        """Read the options, load the model, start its engine, and prepare to fetch pictures."""
        super().setup()
        self.attachments = self._attachment_reader(self.model)

    def _attachment_reader(self, model: TransformersModel) -> AttachmentReader:
        most = self.args.max_attachments if model.accepts_several_images else 1
        return AttachmentReader(policy(self.args), file_types.IMAGE_TYPES, most)

    def create_scheduler(self, slots: int) -> Scheduler:
        """Return the scheduler for up to `slots` concurrent sequences of the loaded model."""
        from .scheduler_factory import create_scheduler

        args = self.args
        return create_scheduler(
            self.model,
            slots,
            self.cache_settings,
            reproducible=args.reproducible,
            paged_attention=args.paged_attention == "on",
            cuda_graphs=args.cuda_graphs == "on",
            threads=types.unless_auto(args.threads),
        )

    # -- prompt encoders

    def accepts_images(self) -> bool:
        """Tell whether the model reads images."""
        return self.model.processor is not None

    def uses_template_of(self, modelfile: Modelfile) -> bool:
        """Tell whether a Modelfile's own chat template renders its chats."""
        is_raw = modelfile.extras.raw_prompt
        return is_raw or (super().uses_template_of(modelfile) and not self.accepts_images())

    def default_encoder(self, variables: Variables = NO_VARIABLES) -> PromptEncoder:
        """Return an encoder with the model's chat template."""
        if self.accepts_images():
            return self._vision_encoder(1, variables)
        return super().default_encoder(variables)

    def encoder_for(
        self, history: list[Message], modelfile: Modelfile, variables: Variables
    ) -> ChatInput:
        """Return the encoder for a request, and the history with placeholders for its images."""
        if not self.accepts_images():
            return super().encoder_for(history, modelfile, variables)
        if modelfile.template:
            logger.info("the Modelfile's template is not used: the model sees pictures")
        if generation_options.wants_multimodal(modelfile.parameters["llm_"]) is False:
            return super().encoder_for(history, modelfile, variables)
        chat = pictures.fetch(self.attachments, history, self.on_stop)
        encoder = self._vision_encoder(len(chat.files), variables)
        for number, file in chat.files.items():
            try:
                encoder.add(number, file)
            except LinkError as error:
                chat = chat.without(number, error)
        return ChatInput(self.folding_system(encoder, modelfile), chat.history, chat.notes)

    def _vision_encoder(self, images: int, variables: Variables) -> VisionEncoder:
        """Return the encoder of a chat; images: how many of them share the prompt."""
        from .vision import VisionEncoder

        return VisionEncoder(
            self.model.processor,
            template=self.model.vision_template,
            variables=variables,
            max_image_tokens=self.prompt_limit.tokens // IMAGE_SHARE // max(1, images),
            control_tokens=self.model.tokenizer.control_tokens,
            text_length=self.prompt_limit.text_length,
        )


def _private_folder() -> str:
    """Return a folder for TORCHINDUCTOR_CACHE_DIR: others can predict the name of torch's own."""
    try:
        folder = tempfile.mkdtemp(prefix="kuwa-torch-")
    except OSError:
        return os.sep  # exists, and other users cannot write to it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"NAME=VALUE is needed, not {text!r}")
    return name, value
