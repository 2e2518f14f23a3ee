"""Prompts with images: load the processor, encode a chat with its images for generate().

Fetches nothing: images come as bytes, and placeholders mark their positions in the chat.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import PIL.Image
import transformers
from transformers import processing_utils
from transformers.utils import is_torchvision_available

from backends._local.prompts.encoder import EncodedPrompt
from backends._local.templates.chat_template import TemplateError
from backends._local.tokenizing.bounds import most_tokens
from backends._local.tokenizing.control_tokens import ControlTokens
from backends._local.tokenizing.rendering import Pairs, placeholders, replaced
from backends._local.tokenizing.template_variables import NO_VARIABLES, Variables
from backends._media.attachments import Attachment
from backends._media.links import placeholder, placeholder_numbers, split
from backends._media.pictures import open_image, scaled_down
from kuwa_min.chat.modelfile import Message
from kuwa_min.errors import StartError

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
ZERO_WIDTH_SPACE = "\u200b"
PROBE_SIDE = 56  # pixels


class ModelInputs(dict[str, Any]):
    """What generate() is called with: input_ids, attention_mask, pixel_values and the like."""

    def for_model(self, model: Any) -> dict[str, Any]:
        """Return the inputs on the model's device, and in its dtype."""
        return dict(transformers.BatchFeature(dict(self)).to(model.device, dtype=model.dtype))


def load_processor(path: str, *, trust_remote_code: bool) -> Any:
    """Return the processor of a folder; raises StartError if it has none for images."""
    try:
        with _without_video():
            processor = transformers.AutoProcessor.from_pretrained(
                path, trust_remote_code=trust_remote_code
            )
    except OSError as error:
        logger.debug("loading the processor failed: %s", error)
        raise StartError(NO_PROCESSOR.format(path)) from None
    if getattr(processor, "image_processor", None) is None:
        raise StartError(NO_PROCESSOR.format(path))
    return processor


class NoVideoProcessor(transformers.ImageProcessingMixin):
    """A placeholder for the video processor that some processors insist on."""

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> NoVideoProcessor:
        """Return an instance; reads no files."""
        return cls()


@contextlib.contextmanager
def _without_video() -> Iterator[None]:
    """Let processors load without torchvision, which only their video processors need.

    A torchvision wheel must match torch's variant (CPU, CUDA), or transformers cannot even be
    imported; the processors of Qwen-VL, SmolVLM and many others do not load without it.
    """
    if is_torchvision_available():
        yield
        return
    loaders = processing_utils.MODALITY_TO_AUTOPROCESSOR_MAPPING._MAPPING_NAMES
    classes = processing_utils.MODALITY_TO_BASE_CLASS_MAPPING
    loader, kind = loaders["video_processor"], classes["video_processor"]
    loaders["video_processor"] = (__name__, NoVideoProcessor.__name__)
    classes["video_processor"] = "ImageProcessingMixin"
    try:
        yield
    finally:
        loaders["video_processor"], classes["video_processor"] = loader, kind


class VisionEncoder:
    """A PromptEncoder of one request whose chats contain placeholders for images.

    template: the chat template; max_image_tokens: of each image, which is scaled down to them: a
    photograph alone could exceed the prompt limit; control_tokens: which people cannot write;
    text_length: counts the tokens of a text within bounds, which the processor does not; variables:
    of the template.
    """

    def __init__(
        self,
        processor: Any,
        *,
        template: str,
        max_image_tokens: int,
        control_tokens: ControlTokens | None = None,
        text_length: Callable[[str], int] = lambda text: 0,
        variables: Variables = NO_VARIABLES,
    ) -> None:
        self._variables = variables
        self._text_length = text_length
        self._processor, self._template = processor, template
        self._control_tokens = control_tokens or ControlTokens()
        self._max_image_tokens = max_image_tokens
        self._images: dict[int, PIL.Image.Image] = {}  # by the number of the placeholder
        self._image_tokens: dict[int, int] = {}

    def add(self, number: int, file: Attachment) -> None:
        """Add the image of a placeholder; raises LinkError if it is damaged."""
        self._images[number], self._image_tokens[number] = scaled_down(
            open_image(file), self._max_image_tokens, self._tokens_of
        )

    def count_tokens(self, chat: list[Message]) -> int:
        """Return the length of a chat in tokens; raises TemplateError."""
        longest = max(self._text_length(one["content"]) for one in chat)
        if longest > most_tokens():
            return longest
        return len(self._encode(chat, {}).ids) + sum(map(self.count_image_tokens, chat))

    def encode(self, chat: list[Message]) -> EncodedPrompt:
        """Return the chat's token ids and ModelInputs; raises TemplateError."""
        return self._encode(chat, self._images)

    def count_image_tokens(self, message: Message) -> int:
        """Return the tokens of a message's images, which are no part of its text."""
        numbers = placeholder_numbers(message["content"])
        return sum(self._image_tokens.get(number, 0) for number in numbers)

    def _tokens_of(self, image: PIL.Image.Image) -> int:
        chat = [{"role": "user", "content": placeholder(0)}]
        return len(self._encode(chat, {0: image}).ids) - len(self._encode(chat, {}).ids)

    def _encode(self, chat: list[Message], images: Mapping[int, PIL.Image.Image]) -> EncodedPrompt:
        return self._apply(chat, images, self._divided(chat))

    def _divided(self, chat: list[Message]) -> Pairs:
        """Return what is written for characters of a chat, lest they form control tokens.

        Nothing for most chats. Processors have no common way to tokenize a part of a text without
        control tokens, so invisible spaces divide what would be one.
        """
        suspects = self._control_tokens.suspects(*(one["content"] for one in chat))
        if not suspects or self._controls(chat, []) == self._controls(
            chat, placeholders(suspects, chat)
        ):
            return []
        return [(one, f"{ZERO_WIDTH_SPACE}{one}{ZERO_WIDTH_SPACE}") for one in suspects]

    def _controls(self, chat: list[Message], pairs: Pairs) -> list[int] | None:
        """Return the control tokens of a chat without its images; None if it is refused."""
        try:
            ids = self._apply(chat, {}, pairs).ids
        except TemplateError:
            return None
        return [token for token in ids if token in self._control_tokens.ids]

    def _apply(
        self, chat: list[Message], images: Mapping[int, PIL.Image.Image], pairs: Pairs
    ) -> EncodedPrompt:
        messages = [{**one, "content": parts(one["content"], images, pairs)} for one in chat]
        with _refusing():
            inputs = self._processor.apply_chat_template(
                messages,
                **self._variables,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        return EncodedPrompt(inputs["input_ids"][0].tolist(), ModelInputs(inputs))


class VisionTemplate:
    """The template of a processor, as text; each message shows a picture."""

    def __init__(self, processor: Any, template: str) -> None:
        self._processor, self._template = processor, template

    def render(self, chat: list[Message], /, **more: Any) -> str:
        """Return the chat as text; raises TemplateError if the template refuses it."""
        picture = {"type": "image"}
        with _refusing():
            text = self._processor.apply_chat_template(
                [{**one, "content": [picture, *parts(one["content"], {})]} for one in chat],
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
            )
        return str(text)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Raise TemplateError for what templates and processors raise."""
    try:
        yield
    except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
        raise TemplateError(str(error).partition("\n")[0]) from None


def accepts_several_images(processor: Any, template: str) -> bool:
    """Tell, by trying, whether a processor and its template accept two images in a chat."""
    encoder = VisionEncoder(processor, template=template, max_image_tokens=PROBE_SIDE**2)
    image = PIL.Image.new("RGB", (PROBE_SIDE, PROBE_SIDE), "white")
    message = {"role": "user", "content": f"{placeholder(0)}{placeholder(1)}?"}
    try:
        encoder._encode([message], {0: image, 1: image})
    except TemplateError:
        return False
    return True


def parts(content: str, images: Mapping[int, Any], pairs: Pairs = ()) -> list[dict[str, Any]]:
    """Split a message at its images into content parts, as templates of these models want it.

    pairs: what is written for some characters.
    """
    found = [
        {"type": "text", "text": replaced(part, pairs)}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in split(content, images)
    ]
    return found or [{"type": "text", "text": ""}]


def own_template(processor: Any) -> str | None:
    """Return the model's template; None if it has none."""
    for place in (processor, processor.tokenizer):
        template = getattr(place, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    return None


def plain_template(processor: Any) -> str:
    """Return a template for models without one."""
    return PLAIN_TEMPLATE.format(getattr(processor, "image_token", None) or "<image>")
