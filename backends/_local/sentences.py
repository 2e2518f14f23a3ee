"""Side notes and reasons of models on this machine."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

CONTEXT_FULL = Sentence(
    "The answer was cut off: the model's context of {} tokens is full.",
    "回答被截斷：模型的上下文（{} 個 token）已滿。",
)
TIMED_OUT = Sentence(
    "The answer took longer than {} s and was cut off.", "回答時間超過 {} 秒，因此被截斷。"
)
TRY_CACHE_TYPE = Sentence(
    "--cache_type f32, or the model's file in another precision, may help.",
    "--cache_type f32 或其他精度的模型檔案或許有幫助。",
)
TRY_DTYPE = Sentence("another --dtype may help.", "其他的 --dtype 或許有幫助。")
