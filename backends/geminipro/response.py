"""Parse the objects of Gemini's responses: text, token counts, and why an answer ended."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from backends._cloud.content import pieces
from backends._cloud.json_reader import Event
from backends._cloud.not_understood import describe, short
from backends._cloud.sentences import (
    CUT_BY_LENGTH,
    CUT_BY_RECITATION,
    CUT_BY_RULES,
    ENDED_ODDLY,
    WANTS_A_TOOL,
)

# Reasons come as numbers, which is how the SDK asks for them; gateways may send names.
FINISH_REASONS = {
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
BLOCK_REASONS = {
    1: "SAFETY",
    2: "OTHER",
    3: "BLOCKLIST",
    4: "PROHIBITED_CONTENT",
    5: "IMAGE_SAFETY",
}
FIELDS = ("candidates", "promptFeedback", "usageMetadata", "error")
NAME = re.compile(r"[A-Z_]{1,40}")
NORMAL_FINISH = ("", "STOP")
POLICY_REASONS = ("SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY")
FINISH_NOTES = {
    "MAX_TOKENS": CUT_BY_LENGTH,
    "RECITATION": CUT_BY_RECITATION,
    "MALFORMED_FUNCTION_CALL": WANTS_A_TOOL,
    "UNEXPECTED_TOOL_CALL": WANTS_A_TOOL,
    **dict.fromkeys(POLICY_REASONS, CUT_BY_RULES),
}


class Chunk(NamedTuple):
    """One object of a response; a field is empty, or None, where the object lacks it."""

    text: str  # of the first candidate: others are not shown
    thought: str  # of the first candidate, too
    finish_reason: str  # its name
    block_reason: str  # why the prompt is not answered
    error: dict[str, Any]  # what failed in the middle of the answer
    prompt_tokens: int | None
    cached_tokens: int | None  # of the prompt
    completion_tokens: int | None  # thinking included
    unknown: list[str]  # kinds of what was not understood


def parse(event: Event) -> Chunk:
    """Parse what came; a field of a wrong type counts as absent."""
    found = as_dict(event.data)
    listed = found.get("candidates")
    candidates = map(as_dict, listed if isinstance(listed, list) else [listed])
    candidate = next((one for one in candidates if one.get("index") in (0, "0", None)), {})
    parts = pieces(candidate.get("content"))
    usage = as_dict(found.get("usageMetadata"))
    counts = [_count(usage, name) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    known = [count for count in counts if count is not None]
    return Chunk(
        text="".join(one.text for one in parts if not one.is_reasoning),
        thought="".join(one.text for one in parts if one.is_reasoning),
        finish_reason=_name(candidate.get("finishReason"), FINISH_REASONS),
        block_reason=_name(
            as_dict(found.get("promptFeedback")).get("blockReason") or "", BLOCK_REASONS
        ),
        error=_error(event),
        prompt_tokens=_count(usage, "promptTokenCount"),
        cached_tokens=_count(usage, "cachedContentTokenCount"),
        completion_tokens=sum(known) if known else None,
        unknown=[short(one.unknown) for one in parts if one.unknown] or _unknown(event),
    )


def _unknown(event: Event) -> list[str]:
    """Return the kind of what is none of Gemini's objects."""
    if event.name == "error" or any(map(as_dict(event.data).get, FIELDS)):
        return []
    return list(filter(None, [describe(event)]))


def _error(event: Event) -> dict[str, Any]:
    """Return an error object; a gateway may send words in place of it, or name the event so."""
    found = as_dict(event.data)
    error = found.get("error") or (event.data if event.name == "error" else None)
    return {"message": error} if isinstance(error, str) else as_dict(error)


def finish_note(reason: str) -> str:
    """Return the sentence on why an answer ended; empty if it ended normally."""
    if reason in NORMAL_FINISH:
        return ""
    return FINISH_NOTES.get(reason, ENDED_ODDLY.format(reason))


def _name(reason: object, names: dict[int, str]) -> str:
    if isinstance(reason, str) and reason:
        return reason if NAME.fullmatch(reason) else "OTHER"
    if not isinstance(reason, int):
        return ""
    return names.get(reason, str(reason) if 0 <= reason < 1000 else "OTHER")


def _count(usage: dict[str, Any], name: str) -> int | None:
    count = usage.get(name)
    return count if isinstance(count, int) and count >= 0 else None


def as_dict(value: object) -> dict[str, Any]:
    """Return a JSON object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return a JSON array; an empty one in place of anything else."""
    return value if isinstance(value, list) else []
