"""Reasons why a chat cannot be computed as its bot asks."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

MUST_NAME_ADAPTERS = Sentence(
    "must be none or some of {}, with commas between them, each with =SCALE if need be",
    "必須是 none 或下列名稱，以逗號分隔，必要時加上 =SCALE：{}",
)
NEEDS_ADAPTERS = Sentence(
    "must be none: no adapter was loaded at the start (--lora)",
    "必須是 none：啟動時沒有載入任何 LoRA（--lora）",
)
