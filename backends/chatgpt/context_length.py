"""Recognise that a chat is too long for a model, and read how much of it fits. No I/O.

Services word it in dozens of ways, of which the tests have a table; most name the tokens that fit,
those of the prompt, and often those that are kept for the answer.
"""

from __future__ import annotations

import re

TOO_LONG = re.compile(
    r"context.{0,20}(length|window|size|limit|overflow)|max(imum)? (context|model|prompt|input)?\s?"
    r"length|max_seq_len|tokens? limit|limit of \d+ tokens|too many (input )?tokens"
    r"|(prompt|input|request)s?\b.{0,60}"
    r"(too (long|large)|longer than|exceeds?\b|greater than|cannot exceed)"
    r"|(tokens|inputs)\b.{0,30}must (be <=|have less than) \d+"
    r"|reduce the length|too large for model|input length should be",
    re.IGNORECASE | re.DOTALL,
)
CODES = re.compile(
    r"context_(length|window)|exceed_context_size|max_prompt_tokens|string_above_max|request_too_large",
    re.IGNORECASE,
)
# Limits of the service on all chats together, which pass. Where a single request is over the limit
# ("Request too large for ... on tokens per min"), a shorter one is the remedy all the same.
RATE = re.compile(
    r"rate.?limit|per (min|hour|day)|\b(hourly|daily|weekly|monthly)\b|throttl|wait|queue"
    r"|too many requests|number of requests",
    re.IGNORECASE,
)
OVER_RATE = re.compile(r"request too large", re.IGNORECASE)

COUNT = r"(?<![\w.-])(\d[\d,_]*)(?![\w.-]*\w)"  # and no part of a model's name
COUNTS = re.compile(COUNT)
UNIT = r"(?:\s*tokens?)?"
PROMPT = re.compile(
    rf"{COUNT}{UNIT} (?:in the messages|in your prompt|of text input|input tokens?\b|from the input"
    rf"|`inputs` tokens)|{COUNT}(?= \+ \d+ >)|prompt tokens \({COUNT}\)",
    re.IGNORECASE,
)
ANSWER = re.compile(
    rf"{COUNT}{UNIT} (?:(?:in|for) the (?:completion|output)|output tokens|`max_new_tokens`)"
    rf"|max-sampled tokens \({COUNT}\)|(?<= \+ ){COUNT}(?= >)"
    rf"|tokens\W{{0,2}} is too large: {COUNT}",
    re.IGNORECASE,
)
LEAST = 100  # a smaller number is no limit


def is_too_long(status: int, code: str, message: str) -> bool:
    """Tell whether an error says that the chat has more tokens than the model takes."""
    if status == 413 or CODES.search(code):
        return True
    if status in (401, 403, 404) or not TOO_LONG.search(message):
        return False
    return not RATE.search(message) or OVER_RATE.search(message) is not None


def fitting_share(message: str) -> float | None:
    """Return which share of the prompt fits: 0 if the answer takes all; None: it does not say."""
    prompt, answer = _count(PROMPT, message), _count(ANSWER, message) or 0
    counts = {_number(one) for one in COUNTS.findall(message)}
    others = {one for one in counts - {prompt, answer} if one >= LEAST}
    limit = min(others, default=0)
    used = prompt or max(others, default=0)
    if not limit or (not prompt and used <= limit):
        return None
    return max(0.0, (limit - (answer if prompt else 0)) / used)


def _count(pattern: re.Pattern[str], message: str) -> int | None:
    found = pattern.search(message)
    return _number(next(filter(None, found.groups()))) if found else None


def _number(text: str) -> int:
    return int(re.sub(r"[,_]", "", text))
