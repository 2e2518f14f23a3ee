"""[On-premises model] Download and run Huggingface model locally."""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

from kuwa_min import generation
from kuwa_min.errors import UsageError

from . import _model_path
from ._model_executor import Model, ModelExecutor

logger = logging.getLogger(__name__)

REQUIRES: dict[str, str] = {
    "torch": "torch>=2.6",
    "transformers": "transformers>=5.5.0",
    "tokenizers": "tokenizers>=0.22",
    "safetensors": "safetensors>=0.4.3",
    "accelerate": "accelerate>=1.0",
    "jinja2": "jinja2>=3.1.6",
}
DTYPES = ("auto", "float32", "float16", "bfloat16")
DRAWING = ("temperature", "top_k", "top_p", "min_p", "seed")
OPTIONS = (
    generation.Option("max_new_tokens", int, 4096, "longest answer in tokens", least=1),
    generation.Option("do_sample", bool, False, "draw tokens instead of taking the likeliest"),
    generation.Option(
        "temperature", float, None, "how freely to draw; None: as the model says", least=0.01
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
    generation.Option("seed", int, None, "seed of the draw; None: another one each time", least=0),
    generation.Option(
        "repetition_penalty", float, 1.0, "above 1, avoid what was said before", least=0.01
    ),
    generation.Option(
        "no_repeat_ngram_size", int, 0, "never repeat so many tokens in a row; 0: off", least=0
    ),
)


class HuggingfaceExecutor(ModelExecutor):
    """Run a model folder of the transformers library; one chat at a time, the others wait."""

    access_code = "huggingface"
    table = OPTIONS

    def extend_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what is to be loaded, and where it runs."""
        add = parser.add_argument_group("options of the model").add_argument
        add("--model_path", required=True, metavar="FOLDER", help="folder of the model")
        add("--visible_gpu", metavar="N[,N]", help="graphics cards to use, as CUDA numbers them")
        add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        add("--dtype", default="auto", choices=DTYPES, help="number format; auto: the model's own")
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
        super().extend_arguments(parser)
        parser.add_argument(
            "--generation_kwargs",
            nargs="+",
            type=_pair,
            default=[],
            metavar="NAME=VALUE",
            help="generation options, as one list",
        )

    def read_settings(self) -> dict[str, Any]:
        """Merge defaults, the -c file, --generation_kwargs and the options of their own."""
        known = {option.name: option for option in OPTIONS}
        for name, value in self.args.generation_kwargs:
            if name not in known:
                raise UsageError(
                    f"--generation_kwargs: unknown option {name!r}; known are {', '.join(known)}"
                )
            try:
                converted = known[name].convert(value)
            except ValueError as error:
                raise UsageError(f"--generation_kwargs: {error}, not {value!r}") from None
            if name not in self.args:  # an option of its own says it more plainly
                setattr(self.args, name, converted)
        settings = super().read_settings()
        idle = [name for name in DRAWING if settings[name] is not None]
        if idle and not settings["do_sample"]:
            logger.warning("without --do_sample true, these do nothing: %s", ", ".join(idle))
        return settings

    def load(self) -> Model:
        """Look at the model, set what the libraries read when they are imported, import them."""
        path = self._path()
        if self.args.visible_gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.args.visible_gpu
        if not self.args.online:
            os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        from ._transformers_engine import TransformersModel

        return TransformersModel(path, self.args)

    def _path(self) -> str:
        """Return the model's folder, or its name on the hub: owner/model, if that is allowed."""
        path: str = self.args.model_path
        if self.args.online and path.count("/") == 1 and path[0] not in "./~":
            return path
        return str(_model_path.folder(path))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"NAME=VALUE is needed, not {text!r}")
    return name, value
