"""Why an option cannot be used: reasons for the gap of catalog.BAD_OPTION."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

OPTION_REASON = Sentence("{} {}", "{}：{}")
MUST_BE_TRUTH = Sentence("must be true or false", "必須是 true 或 false")
MUST_BE_WHOLE = Sentence("must be a whole number", "必須是整數")
MUST_BE_WHOLES = Sentence(
    "must be a whole number or a list of them, {} at most", "必須是整數或整數清單，最多 {} 項"
)
MUST_BE_NUMBER = Sentence("must be a number", "必須是數字")
MUST_BE_FINITE = Sentence("must be a finite number", "必須是有限的數字")
MUST_BE_TEXT = Sentence("must be text", "必須是文字")
MUST_BE_TEXTS = Sentence(
    "must be a text or a list of texts, {} at most, none longer than {}",
    "必須是文字或文字清單，最多 {} 項，每項不超過 {} 個字元",
)
MUST_BE_AT_LEAST = Sentence("must be at least {}", "不得小於 {}")
MUST_BE_AT_MOST = Sentence("must be at most {}", "不得大於 {}")
MUST_BE_OBJECT = Sentence(
    "must be a JSON object of {} characters at most", "必須是 JSON 物件，不超過 {} 個字元"
)
MUST_BE_ONE_OF = Sentence("must be one of {}", "必須是下列其中之一：{}")
MUST_HAVE_NO_MARKUP = Sentence("must hold none of the model's markup", "不得含有模型的標記")
MUST_BE_NAME = Sentence("must be a name", "必須是名稱")
MUST_BE_JSON = Sentence("must be something that JSON can hold", "必須是 JSON 能表示的值")
MUST_SUIT_SERVICE = Sentence("must be as the service takes it", "必須是模型服務接受的值")
MUST_MAP_TOKENS = Sentence("must map tokens' numbers to numbers", "必須是 token 編號與數字的對應")
MUST_HAVE_FEWER_TOKENS = Sentence("must have {} tokens at most", "最多只能有 {} 個 token")
MUST_BE_BIASES = Sentence(
    "must be from {} to {} for each token", "每個 token 的值必須介於 {} 與 {} 之間"
)
MUST_BE_SCHEMA = Sentence(
    "must be a JSON schema: a JSON object of {} characters at most",
    "必須是 JSON 結構描述：不超過 {} 個字元的 JSON 物件",
)
MUST_BE_PATTERN = Sentence("must be a text of 1 to {} characters", "必須是 1 到 {} 個字元的文字")
ONE_CONSTRAINT = Sentence("must not be given together with {}", "不得與 {} 同時指定")
