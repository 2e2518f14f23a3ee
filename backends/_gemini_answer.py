"""Read what Gemini says in the objects of an answer: text, tokens, and why it ended."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from kuwa_min import sentences

# As numbers, which is how the SDK asks for them; what stands in for the service may send names.
ENDS = {
    0: "",
    1: "STOP",
    2: "MAX_TOKENS",
    3: "SAFETY",
    4: "RECITATION",
    5: "OTHER",
    6: "LANGUAGE",
    7: "BLOCKLIST",
    8: "PROHIBITED_CONTENT",
    9: "SPII",
    10: "MALFORMED_FUNCTION_CALL",
    11: "IMAGE_SAFETY",
}
BLOCKS = {
    1: "SAFETY",
    2: "OTHER",
    3: "BLOCKLIST",
    4: "PROHIBITED_CONTENT",
    5: "IMAGE_SAFETY",
}
NAME = re.compile(r"[A-Z_]{1,40}")
WELL = ("", "STOP")
RULES = ("SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY")
NOTES = {
    "MAX_TOKENS": sentences.CUT_BY_LENGTH,
    "RECITATION": sentences.CUT_BY_RECITATION,
    "MALFORMED_FUNCTION_CALL": sentences.WANTS_A_TOOL,
    "UNEXPECTED_TOOL_CALL": sentences.WANTS_A_TOOL,
    **dict.fromkeys(RULES, sentences.CUT_BY_RULES),
}


class Piece(NamedTuple):
    """What one object says; empty where it says nothing."""

    text: str  # of the first candidate: others are not shown
    end: str  # the name of the reason why the answer ends here
    block: str  # the name of the reason why the prompt was not answered
    error: dict[str, Any]  # what failed in the middle
    read: int | None  # tokens of the prompt, so far as it is known
    written: int | None  # tokens of the answer, thinking included


def parse(found: dict[str, Any]) -> Piece:
    """Return what an object says; what is not as it should be counts as absent."""
    candidates = map(as_dict, as_list(found.get("candidates")))
    candidate = next((one for one in candidates if one.get("index", 0) == 0), {})
    usage = as_dict(found.get("usageMetadata"))
    written = [_count(usage, name) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    known = [count for count in written if count is not None]
    return Piece(
        text=_text(as_list(as_dict(candidate.get("content")).get("parts"))),
        end=_name(candidate.get("finishReason"), ENDS),
        block=_name(as_dict(found.get("promptFeedback")).get("blockReason") or "", BLOCKS),
        error=as_dict(found.get("error")),
        read=_count(usage, "promptTokenCount"),
        written=sum(known) if known else None,
    )


def note(end: str) -> str:
    """Return the sentence that says why an answer ended as it did; empty if it ended well."""
    return "" if end in WELL else NOTES.get(end, sentences.ENDED_ODDLY.format(end))


def _text(parts: list[Any]) -> str:
    """Return what is said in the parts, without what was only thought."""
    said = [as_dict(part).get("text") for part in parts if not as_dict(part).get("thought")]
    return "".join(text for text in said if isinstance(text, str))


def _name(reason: object, names: dict[int, str]) -> str:
    if isinstance(reason, str) and reason:
        return reason if NAME.fullmatch(reason) else "OTHER"
    return names.get(reason, str(reason)) if isinstance(reason, int) else ""


def _count(usage: dict[str, Any], name: str) -> int | None:
    count = usage.get(name)
    return count if isinstance(count, int) and count >= 0 else None


def as_dict(value: object) -> dict[str, Any]:
    """Return an object; an empty one if it is something else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return an array; an empty one if it is something else."""
    return value if isinstance(value, list) else []
