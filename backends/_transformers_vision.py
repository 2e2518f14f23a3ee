"""Let models of transformers see the picture of a chat: processor, prompt, inputs for generate().

Knows no web: the picture comes as bytes, and MARK stands in the chat where it belongs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
from collections.abc import Iterator
from typing import Any

import jinja2
import PIL.Image
import PIL.ImageOps
import transformers
from transformers import processing_utils
from transformers.utils import is_torchvision_available

from kuwa_min.errors import AnswerError, StartError
from kuwa_min.modelfile import Message

from ._chat_template import RefusedTemplate
from ._images import MARK, Image, check_size
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
DAMAGED = "[The image cannot be read: it is damaged.]"


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
    """The chats that one request tries, and the picture that they may be about.

    template: of override_chat_template or own_template; most: tokens that the picture may have,
    beyond which it is scaled down, or a photograph alone would be longer than a prompt may be.
    Raises AnswerError if the picture is damaged, RefusedTemplate if the template refuses it.
    """

    def __init__(self, processor: Any, image: Image | None, *, template: str, most: int) -> None:
        self._processor, self._template = processor, template
        self._picture: PIL.Image.Image | None = None
        self._picture_tokens = 0
        if image is not None:
            self._picture, self._picture_tokens = self._scaled(open_picture(image), most)

    def length(self, chat: list[Message]) -> int:
        """Return how many tokens a chat has; raises RefusedTemplate if it is refused."""
        length = len(self._encode(chat, None).ids)
        return length + self._picture_tokens if self._shown(chat) else length

    def prepare(self, chat: list[Message]) -> Prompt:
        """Return the chat as a Prompt; raises RefusedTemplate if the template refuses it."""
        return self._encode(chat, self._picture if self._shown(chat) else None)

    def _shown(self, chat: list[Message]) -> bool:
        return self._picture is not None and any(MARK in one["content"] for one in chat)

    def _scaled(self, picture: PIL.Image.Image, most: int) -> tuple[PIL.Image.Image, int]:
        """Return a picture that takes at most so many tokens if it can, and how many it takes."""
        whole = tokens = self._tokens_of(picture)
        fitting = picture
        for _ in range(SCALINGS):
            if tokens <= most:
                return fitting, tokens
            # processors scale down themselves, so that the first steps may change nothing
            factor = 0.95 * math.sqrt(most / tokens) if tokens < whole else 0.4
            width, height = (max(1, int(side * factor)) for side in fitting.size)
            fitting = fitting.resize((width, height), PIL.Image.Resampling.BICUBIC)
            tokens = self._tokens_of(fitting)
        return (fitting, tokens) if tokens < whole else (picture, whole)

    def _tokens_of(self, picture: PIL.Image.Image) -> int:
        chat = [{"role": "user", "content": MARK}]
        return len(self._encode(chat, picture).ids) - len(self._encode(chat, None).ids)

    def _encode(self, chat: list[Message], picture: Any) -> Prompt:
        try:
            made = self._processor.apply_chat_template(
                [{**one, "content": parts(one["content"], picture)} for one in chat],
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
        """Tell whether somebody typed "<image>" or the like, which is to be text and no picture.

        Asked for only then: the processors of Idefics 3 and its kin cannot do it.
        """
        known = self._processor.tokenizer.get_added_vocab()
        return any(token in one["content"] for one in chat for token in known)


def parts(content: str, picture: Any) -> list[dict[str, Any]]:
    """Split a message at its picture, as templates of these models want it."""
    before, _, after = content.partition(MARK)
    image = {"type": "image", "image": picture} if MARK in content and picture else None
    texts = [{"type": "text", "text": text} if text else None for text in (before, after)]
    return [part for part in (texts[0], image, texts[1]) if part] or [{"type": "text", "text": ""}]


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


def open_picture(image: Image) -> PIL.Image.Image:
    """Return the pixels, upright and without transparency; raises AnswerError if damaged."""
    kind = image.media_type.removeprefix("image/").upper()
    try:
        picture = PIL.Image.open(io.BytesIO(image.data), formats=(kind,))
        check_size(*picture.size)  # a GIF's frames may be larger than it says itself
        return PIL.ImageOps.exif_transpose(picture).convert("RGB")
    except AnswerError:
        raise
    except Exception:  # noqa: BLE001 - readers of strangers' bytes raise whatever they raise
        raise AnswerError(DAMAGED) from None
