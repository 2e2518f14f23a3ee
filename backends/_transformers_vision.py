"""Let models of transformers see the pictures of a chat: processor, prompt, inputs of generate().

Knows no web: pictures come as bytes, and signs stand in the chat where they belong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import PIL.Image
import PIL.ImageOps
import transformers
from transformers import processing_utils
from transformers.utils import is_torchvision_available

from kuwa_min.errors import StartError
from kuwa_min.modelfile import Message
from kuwa_min.sentences import LINK_DAMAGED

from ._attachments import Attachment
from ._chat_template import RefusedTemplate
from ._fetch_policy import LinkError
from ._images import check_size
from ._links import numbers, sign, split
from ._reader import Prompt

logger = logging.getLogger(__name__)

PLAIN_TEMPLATE = (
    "{{% for message in messages %}}{{{{ message.role }}}}: {{% for part in message.content %}}"
    "{{% if part.type == 'image' %}}{}\n{{% else %}}{{{{ part.text }}}}{{% endif %}}{{% endfor %}}"
    "{{{{ '\n' }}}}{{% endfor %}}assistant:"
)
NO_PROCESSOR = (
    "{} has no preprocessor_config.json that can be read, which says how its pictures are "
    "prepared; --processor gives the folder that has it"
)
SCALINGS = 6  # tries to make a picture fit
LONGEST_SIDE = 4096  # pixels of a picture in memory: no processor uses more
PROBE_SIDE = 56  # pixels


class Tensors(dict[str, Any]):
    """What generate() is called with: input_ids, attention_mask, pixel_values and the like."""

    def inputs(self, model: Any) -> dict[str, Any]:
        """Return them where the model is, and in its number format."""
        return dict(transformers.BatchFeature(dict(self)).to(model.device, dtype=model.dtype))


def load_processor(path: str, args: argparse.Namespace) -> Any:
    """Return what makes inputs of chats and pictures; raises StartError if the folder has none."""
    place = args.processor or path
    try:
        with _without_films():
            processor = transformers.AutoProcessor.from_pretrained(
                place, trust_remote_code=args.trust_remote_code
            )
    except OSError as error:
        logger.debug("loading the processor failed: %s", error)
        raise StartError(NO_PROCESSOR.format(place)) from None
    if getattr(processor, "image_processor", None) is None:
        raise StartError(NO_PROCESSOR.format(place))
    return processor


class NoFilms(transformers.ImageProcessingMixin):
    """Stand where a processor insists on something that prepares films."""

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> NoFilms:
        """Return one; it reads nothing."""
        return cls()


@contextlib.contextmanager
def _without_films() -> Iterator[None]:
    """Load processors without torchvision, which films need and pictures do not.

    Its wheel must be of the very variant of torch (CPU, CUDA), or transformers cannot even be
    imported; Qwen-VL, SmolVLM and many others do not load without it.
    """
    if is_torchvision_available():
        yield
        return
    loaders = processing_utils.MODALITY_TO_AUTOPROCESSOR_MAPPING._MAPPING_NAMES
    classes = processing_utils.MODALITY_TO_BASE_CLASS_MAPPING
    loader, kind = loaders["video_processor"], classes["video_processor"]
    loaders["video_processor"] = (__name__, NoFilms.__name__)
    classes["video_processor"] = "ImageProcessingMixin"
    try:
        yield
    finally:
        loaders["video_processor"], classes["video_processor"] = loader, kind


class VisionChat:
    """Reads the chats of one request, with the pictures whose signs stand in them.

    template: of override_chat_template or own_template; most: tokens that a picture may have,
    beyond which it is scaled down, or a photograph alone would be longer than a prompt may be.
    """

    def __init__(self, processor: Any, *, template: str, most: int) -> None:
        self._processor, self._template, self._most = processor, template, most
        self._pictures: dict[int, PIL.Image.Image] = {}
        self._tokens: dict[int, int] = {}  # of each picture

    def add(self, number: int, file: Attachment) -> None:
        """Take the picture that a sign stands for; raises LinkError if it is damaged."""
        self._pictures[number], self._tokens[number] = self._scaled(open_picture(file))

    def length(self, chat: list[Message]) -> int:
        """Return how many tokens a chat has; raises RefusedTemplate if it is refused."""
        signs = (number for one in chat for number in numbers(one["content"]))
        pictures = sum(self._tokens.get(number, 0) for number in signs)
        return len(self._encode(chat, {}).ids) + pictures

    def prepare(self, chat: list[Message]) -> Prompt:
        """Return the chat as a Prompt; raises RefusedTemplate if the template refuses it."""
        return self._encode(chat, self._pictures)

    def _scaled(self, picture: PIL.Image.Image) -> tuple[PIL.Image.Image, int]:
        """Return a picture of no more tokens than it may have, if it can, and how many it has."""
        whole = tokens = self._tokens_of(picture)
        fitting = picture
        for _ in range(SCALINGS):
            if tokens <= self._most:
                return fitting, tokens
            # processors scale down themselves, so that the first steps may change nothing
            factor = 0.95 * math.sqrt(self._most / tokens) if tokens < whole else 0.4
            width, height = (max(1, int(side * factor)) for side in fitting.size)
            fitting = fitting.resize((width, height), PIL.Image.Resampling.BICUBIC)
            tokens = self._tokens_of(fitting)
        return (fitting, tokens) if tokens < whole else (picture, whole)

    def _tokens_of(self, picture: PIL.Image.Image) -> int:
        chat = [{"role": "user", "content": sign(0)}]
        return len(self._encode(chat, {0: picture}).ids) - len(self._encode(chat, {}).ids)

    def _encode(self, chat: list[Message], pictures: Mapping[int, PIL.Image.Image]) -> Prompt:
        try:
            made = self._processor.apply_chat_template(
                [{**one, "content": parts(one["content"], pictures)} for one in chat],
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                sanitize_control_tokens=self._holds_tokens(chat),
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise RefusedTemplate(str(error).partition("\n")[0]) from None
        return Prompt(made["input_ids"][0].tolist(), Tensors(made))

    def _holds_tokens(self, chat: list[Message]) -> bool:
        """Tell whether the chat holds a special token as text, such as "<image>", to be escaped.

        Asked for only then: the processors of Idefics 3 and its kin cannot do it.
        """
        known = self._processor.tokenizer.get_added_vocab()
        return any(token in one["content"] for one in chat for token in known)


def takes_several(processor: Any, template: str) -> bool:
    """Find out whether a processor and its template take two pictures in a chat."""
    chat = VisionChat(processor, template=template, most=PROBE_SIDE**2)
    picture = PIL.Image.new("RGB", (PROBE_SIDE, PROBE_SIDE), "white")
    said = {"role": "user", "content": f"{sign(0)}{sign(1)}?"}
    try:
        chat._encode([said], {0: picture, 1: picture})
    except RefusedTemplate:
        return False
    return True


def parts(content: str, pictures: Mapping[int, Any]) -> list[dict[str, Any]]:
    """Split a message at its pictures, as templates of these models want it."""
    found = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in split(content, pictures)
    ]
    return found or [{"type": "text", "text": ""}]


def own_template(processor: Any, path: str) -> str:
    """Return the model's template, or a plain one if it has none, and say so."""
    for place in (processor, processor.tokenizer):
        template = getattr(place, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    logger.warning("%s has no chat template; a plain one is used", path)
    return PLAIN_TEMPLATE.format(getattr(processor, "image_token", None) or "<image>")


def open_picture(file: Attachment) -> PIL.Image.Image:
    """Return the pixels, upright and without transparency; raises LinkError if damaged."""
    kind = file.media_type.removeprefix("image/").upper()
    try:
        picture = PIL.Image.open(io.BytesIO(file.data), formats=(kind,))
        check_size(*picture.size)  # a GIF's frames may be larger than its head says
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        return PIL.ImageOps.exif_transpose(picture).convert("RGB")
    except LinkError:
        raise
    except Exception:  # noqa: BLE001 - decoders of untrusted bytes raise anything
        raise LinkError(LINK_DAMAGED) from None
