"""[On-premises model] Download and run Huggingface model locally."""

from __future__ import annotations

import argparse
import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kuwa_min import Modelfile, generation
from kuwa_min.errors import UsageError
from kuwa_min.modelfile import Message, convert_value
from kuwa_min.option_values import from_json

from . import _attachments, _file_types, _hub_cache, _model_path, _quantization
from ._attachments import AttachmentReader, Chat
from ._engine import Batch
from ._fetch_policy import LinkError
from ._line import CancelScope
from ._model_executor import Model, ModelExecutor, chat_template
from ._reader import ChatInput, Reader

if TYPE_CHECKING:
    from ._transformers_model import TransformersModel
    from ._transformers_vision import VisionChat

logger = logging.getLogger(__name__)

REQUIRES: dict[str, str] = {
    "torch": "torch>=2.6",
    "transformers": "transformers>=5.5.0",
    "tokenizers": "tokenizers>=0.22",
    "safetensors": "safetensors>=0.4.3",
    "accelerate": "accelerate>=1.0",
    "jinja2": "jinja2>=3.1.6",
    "PIL": "pillow>=11.0",
}
PICTURE_SHARE = 2  # of a prompt, one part in so many may be pictures
DTYPES = {  # by the names that Kuwa's --torch_dtype has
    "auto": "auto",
    "float32": "float32",
    "fp32": "float32",
    "float16": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}
BEAMS_ONLY = ("length_penalty", "early_stopping")
DRAWING = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "seed"),
)
OPTIONS = (
    generation.Option("max_new_tokens", int, 4096, "longest answer in tokens", least=1),
    generation.Option("do_sample", bool, False, "draw tokens instead of taking the likeliest"),
    generation.Option(
        "temperature",
        float,
        None,
        "how freely to draw, 0: not; None: as the model says",
        least=0,
    ),
    generation.Option(
        "top_k", int, None, "draw from so many tokens, 0 from all; None: as the model says", least=0
    ),
    generation.Option(
        "top_p", float, None, "draw from this share of them; None: as the model says", least=0.01
    ),
    generation.Option(
        "min_p", float, None, "least share of the likeliest token's probability", least=0
    ),
    generation.Option("typical_p", float, None, "draw from the typical tokens; 1: off", least=0.01),
    generation.Option(
        "epsilon_cutoff", float, None, "never draw what is less probable than this", least=0
    ),
    generation.Option(
        "eta_cutoff", float, None, "the same, less strict where all are improbable", least=0
    ),
    generation.Option("seed", int, None, "seed of the draw; None: another one each time", least=0),
    generation.Option("min_new_tokens", int, None, "shortest answer in tokens", least=0),
    generation.Option(
        "repetition_penalty", float, 1.0, "above 1, avoid what was said before", least=0.01
    ),
    generation.Option(
        "no_repeat_ngram_size", int, 0, "never repeat so many tokens in a row; 0: off", least=0
    ),
    generation.Option(
        "stop", list, None, "end an answer before these texts", aliases=("stop_strings",)
    ),
)


class HuggingfaceExecutor(ModelExecutor):
    """Run a model folder of the transformers library: many chats at once, one that sees alone."""

    access_code = "huggingface"
    table = OPTIONS

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what is to be loaded, and where it runs."""
        add = parser.add_argument_group("options of the model").add_argument
        add(
            "--model_path",
            required=True,
            metavar="FOLDER|NAME",
            help="folder of the model, or its name in the hub's cache: owner/name",
        )
        add("--tokenizer", metavar="FOLDER|NAME", help="tokenizer; None: the model's own")
        add("--processor", metavar="FOLDER|NAME", help="of pictures; None: the model's own")
        add("--visible_gpu", metavar="N[,N]", help="graphics cards to use, as CUDA numbers them")
        add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        add(
            "--device_map",
            type=_device_map,
            metavar="NAME|JSON",
            help="where parts of the model go, as accelerate has it; None: as --device says",
        )
        add(
            *("--dtype", "--torch_dtype"),
            default="auto",
            choices=DTYPES,
            help="number format; auto: the model's own",
        )
        add("--load_8bits", action="store_true", help="load weights in 8 bits (bitsandbytes)")
        add("--safetensors_only", action="store_true", help="refuse weights in .bin files")
        add(
            "--trust_remote_code",
            action="store_true",
            help="run Python code that comes with the model; it may do anything",
        )
        add(
            "--online",
            action="store_true",
            help="let the library use the internet; --model_path may then be a name on its hub",
        )
        _attachments.add_arguments(parser.add_argument_group("options of pictures").add_argument)
        super().extend_arguments(parser)
        parser.add_argument(
            "--generation_kwargs",
            nargs="*",
            type=_pair,
            default=[],
            metavar="NAME=VALUE",
            help="generation options, as one list",
        )

    def prepare(self) -> None:
        """Set what the libraries read when they are imported."""
        if self.args.visible_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.args.visible_gpu
        offline = str(int(not self.args.online))
        os.environ.update(HF_HUB_OFFLINE=offline, TRANSFORMERS_OFFLINE=offline)
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", _private_folder())

    def library(self) -> generation.Library:
        """Return what the library takes beyond the table."""
        from . import _transformers_options

        return _transformers_options.library()

    def read_settings(self) -> dict[str, Any]:
        """Merge defaults, the -c file, --generation_kwargs and the options of their own."""
        pairs = {name: from_json(convert_value(text)) for name, text in self.args.generation_kwargs}
        more = [("--generation_kwargs", pairs)]
        settings = generation.settings(self.table, self.args, self.library, more=more)
        drawing = [name for name in DRAWING if settings[name] is not None]
        if drawing and not settings["do_sample"]:
            logger.warning("without --do_sample true, these do nothing: %s", ", ".join(drawing))
        beams = [name for name in BEAMS_ONLY if settings.get(name) is not None]
        if beams and "num_beams" not in settings:
            logger.warning("without num_beams, these do nothing: %s", ", ".join(beams))
            settings = {name: value for name, value in settings.items() if name not in beams}
        self.args.timeout = self.args.timeout or settings.pop("max_time", None)
        return settings

    def load(self) -> Model:
        """Look at the model and load it."""
        check = partial(
            _model_path.folder,
            safetensors_only=self.args.safetensors_only,
            needs_tokenizer=not self.args.tokenizer,
        )
        path = self._place(self.args.model_path, check)
        for name in ("tokenizer", "processor"):
            given = getattr(self.args, name)
            if given:
                find = partial(_model_path.other_folder, option=f"--{name}")
                setattr(self.args, name, self._place(given, find))
        self.args.dtype = DTYPES[self.args.dtype]
        if self.args.load_8bits:
            _quantization.check_libraries("--load_8bits needs", ("bitsandbytes",))
        steps = self.progress(f"loading {self.args.model_path}")
        steps(0, 1)
        from ._transformers_model import TransformersModel
        from ._transformers_options import beyond

        ends = self.settings.pop("eos_token_id", [])
        model = TransformersModel(
            path,
            self.args,
            steps,
            template=chat_template(self.args.override_chat_template),
            beyond=beyond(self.settings),
            ends=ends,
        )
        self.attachments = self._attachment_reader(model)
        return model

    def create_batch(self, slots: int) -> Batch:
        """Return the scheduler for up to `slots` concurrent sequences of the loaded model."""
        from ._transformers_engine import create_batch

        return create_batch(self.model, slots)

    def _attachment_reader(self, model: TransformersModel) -> AttachmentReader:
        most = self.args.max_attachments if model.takes_several_pictures else 1
        return AttachmentReader(self.args, _file_types.IMAGES, most)

    def _place(self, path: str, find: Callable[[str], Path]) -> str:
        """Return a folder that was checked, or a name on the hub if the library may look there."""
        if self.args.online and _hub_cache.is_hub_name(path) and not Path(path).exists():
            if "@" in path:
                raise UsageError(
                    f"{path}: --online fetches no revision; {_hub_cache.how_to_fetch(path)}"
                )
            return path
        return str(find(path))

    def sees(self) -> bool:
        """Tell whether the model takes pictures."""
        return self.model.processor is not None

    def own_reader(self) -> Reader:
        """Return what reads chats by the model's template."""
        return self._vision(1) if self.sees() else super().own_reader()

    def open_chat(self, history: list[Message], modelfile: Modelfile) -> ChatInput:
        """Return what reads the chats of a request, and its history as that wants it."""
        if not self.sees():
            return super().open_chat(history, modelfile)
        if modelfile.template:
            logger.info("the Modelfile's template is not used: the model sees pictures")
            modelfile.template = ""
        if generation.wants_multimodal(modelfile.parameters["llm_"]) is False:
            return super().open_chat(history, modelfile)
        chat = self._read_pictures(history)
        reader = self._vision(len(chat.files))
        for number, file in chat.files.items():
            try:
                reader.add(number, file)
            except LinkError as error:
                chat = chat.without(number, error)
        return ChatInput(self.folded(reader, self.takes_system), chat.history, chat.notes)

    def _read_pictures(self, history: list[Message]) -> Chat:
        """Fetch a chat's pictures; a stop of the chat ends that."""
        scope = CancelScope()
        self.on_stop(scope.cancel)
        with scope:
            return self.attachments.read(history)

    def _vision(self, pictures: int) -> VisionChat:
        """Return the reader of a chat with this number of pictures."""
        from ._transformers_vision import VisionChat

        return VisionChat(
            self.model.processor,
            template=self.model.vision_template,
            most=self.limit // PICTURE_SHARE // max(1, pictures),
        )


def _private_folder() -> str:
    """Return a folder for what torch compiles: its own would lie where others can foresee it."""
    try:
        folder = tempfile.mkdtemp(prefix="kuwa-torch-")
    except OSError:
        return os.sep  # is there, and nobody plants anything in it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _device_map(text: str) -> str | dict[str, Any]:
    """Return a name, or the map that a JSON object is; 0 is the first card."""
    value = from_json(text.strip())
    if isinstance(value, dict):
        return value
    if not value or not isinstance(value, str) or value.startswith("{"):
        raise argparse.ArgumentTypeError(f"a name or a JSON object is needed, not {text!r}")
    return f"cuda:{value}" if value.isdecimal() else value


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"NAME=VALUE is needed, not {text!r}")
    return name, value
