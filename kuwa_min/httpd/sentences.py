"""What the server tells clients whose requests it does not read; the Kernel shows it to users."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

TOO_LARGE = Sentence("The request is larger than {} MB.", "請求超過 {} MB。")
TOO_MUCH_AT_ONCE = Sentence(
    "Too many large requests are coming in at once. Please try again in a moment.",
    "目前同時有太多大型請求，請稍候再試。",
)
