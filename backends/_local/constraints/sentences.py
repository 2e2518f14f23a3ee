"""Why an answer cannot be held to what it must match: reasons for the gap of OPTION_REASON."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

CANNOT_BE_USED = Sentence("cannot be used: {}", "無法使用：{}")
TOO_LONG_TO_COMPILE = Sentence(
    "takes more than {} s or {} MB to compile; a smaller one is needed",
    "編譯所需超過 {} 秒或 {} MB，請改用較小的",
)
NO_MATCHER = Sentence("cannot be used here: {} is missing or failed", "此處無法使用：{} 缺少或失敗")
NO_TOKEN_TEXTS = Sentence(
    "cannot be used with this model: the texts of its tokens are not known",
    "無法用於此模型：無從得知其 token 的文字",
)
WITH_BEAMS = Sentence("cannot be used with a schema or grammar", "無法與結構描述或文法同時使用")
