"""Side notes and reasons of models that a service runs."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

CUT_BY_LENGTH = Sentence(
    "The answer was cut off: it is as long as it may be.", "回答已達長度上限，因此被截斷。"
)
CUT_BY_RULES = Sentence(
    "The answer was cut off by the content rules of the model's service.",
    "回答因模型服務的內容規範而被截斷。",
)
CUT_BY_RECITATION = Sentence(
    "The answer was cut off: it came too close to a text under copyright.",
    "回答過於接近受著作權保護的文字，因此被截斷。",
)
BROKEN_OFF = Sentence(
    "The connection to the model's service ended early: the answer may be incomplete.",
    "與模型服務的連線提早結束，回答可能不完整。",
)
WANTS_A_TOOL = Sentence(
    "The model asked for a tool, and this program has none for it.",
    "模型要求使用工具，但本程式沒有提供工具。",
)
ENDED_ODDLY = Sentence(
    "The model's service ended the answer for a reason of its own: {}.",
    "模型服務因自身的原因結束了回答：{}。",
)
LAST_FILE_ONLY = Sentence(
    "The model took only the last picture of this chat.", "模型只看了此對話的最後一張圖片。"
)
IMAGE_USELESS = Sentence("the model's service cannot make anything of it", "模型服務無法處理它")
