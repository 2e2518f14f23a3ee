"""The messages of a request as the history of a chat."""

from __future__ import annotations

from typing import NamedTuple

from kuwa_min.chat.modelfile import Message

from . import tools
from .errors import ApiError
from .fields import Fields
from .sentences import A_LINK, CONTENT, MUST_BE, NOT_SUPPORTED

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "assistant": ASSISTANT,
    "tool": USER,
}
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
LINK_ENDS = ".,;:!?)]}>'\"*`"  # which a link in a text does not end with
EXAMPLE = '{"type": "text", "text": "..."}'


class Conversation(NamedTuple):
    """A chat as executors take it."""

    history: list[Message]
    image: str | None  # the path of a picture, if there is one


def read(request: Fields, tools_prompt: str = "") -> Conversation:
    """Return the conversation of a request; raises ApiError.

    tools_prompt: what the system prompt says of functions.
    System messages are joined in front, as many chat templates refuse them elsewhere. The name of a
    message is not told to models.
    """
    readers = [_MessageReader(one) for one in request.objects("messages")]
    system = [one.content for one in readers if one.role == SYSTEM and one.content.strip()]
    system += [tools_prompt] if tools_prompt else []
    others = [Message(role=one.role, content=one.content) for one in readers if one.role != SYSTEM]
    joined = [Message(role=SYSTEM, content="\n\n".join(system))] if system else []
    images = [one.image for one in readers if one.image is not None]
    return Conversation([*joined, *others], images[0] if images else None)


class _MessageReader:
    """One message: its role and its text, in which pictures are links on lines of their own."""

    def __init__(self, message: Fields) -> None:
        self.image: str | None = None
        role = message.choice("role", [*ROLES])
        self.role = ROLES[role]
        self.content = self._content(message)
        if role == "tool":
            self.content = tools.result_as_text(self.content)
        if role == ASSISTANT and (calls := tools.calls_as_text(message)):
            self.content = "\n".join(filter(None, (self.content, calls)))

    def _content(self, message: Fields) -> str:
        content = message.get("content")
        if content is None and self.role == ASSISTANT:
            return ""
        if isinstance(content, list) and content:
            return "\n".join(self._part(part) for part in message.objects("content"))
        if not isinstance(content, str):
            raise message.refuse("content", CONTENT.format(EXAMPLE))
        return message.text("content") or ""

    def _part(self, part: Fields) -> str:
        kind = part.get("type")
        if isinstance(kind, str) and kind in TEXT_PARTS:
            return part.text(TEXT_PARTS[kind], required=True) or ""
        if kind in ("image_url", "input_image") and self.role == USER:
            return self._image(part)
        path = part.path("type")
        raise ApiError(400, NOT_SUPPORTED.format(path), param=path)

    def _image(self, part: Fields) -> str:
        self.image = part.path("image_url")
        holder, name = part, "image_url"
        if not isinstance(part.get(name), str):
            holder, name = part.object(name) or part, "url"
        url = (holder.text(name, required=True) or "").strip()
        is_data = url[:11].lower() == "data:image/"
        if not (is_data or url[:8].lower().startswith(("http://", "https://"))) or url.split() != [
            url
        ]:
            raise ApiError(400, MUST_BE.format(holder.path(name), A_LINK), param=holder.path(name))
        return url[:-1] + f"%{ord(url[-1]):02X}" if url[-1] in LINK_ENDS else url
