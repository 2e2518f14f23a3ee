"""What clients of /v1 are told about requests that cannot be answered."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

NOT_JSON = Sentence(
    "The body of the request must be a JSON object.", "請求的內容必須是 JSON 物件。"
)
TOO_MANY_VALUES = Sentence(
    "The request has too many values; please start a new chat.",
    "請求中的項目太多，請開始新的對話。",
)
MISSING = Sentence("{} is missing: it must be {}.", "缺少 {}：必須是{}。")
MUST_BE = Sentence("{} must be {}.", "{} 必須是{}。")
A_TEXT = Sentence("a text", "文字")
A_BOOLEAN = Sentence("true or false", "true 或 false")
A_NUMBER = Sentence("a number", "數字")
A_WHOLE = Sentence("a whole number", "整數")
AT_LEAST = Sentence("{} of at least {}", "{}，至少為 {}")
BETWEEN = Sentence("{} from {} to {}", "{}，介於 {} 與 {} 之間")
AN_OBJECT = Sentence("an object", "物件")
A_LIST = Sentence("a list that is not empty", "非空的清單")
STOP_WORDS = Sentence(
    "a text or a list of up to {} texts of up to {} characters",
    "文字，或最多 {} 個、每個最多 {} 字的文字清單",
)
A_LINK = Sentence(
    "a link (https://...) or a picture as data:image/...;base64,...",
    "連結（https://...），或 data:image/...;base64,... 格式的圖片",
)
A_NAME = Sentence(
    "a name of up to 64 letters, digits, dots, - and _",
    "名稱，最多 64 個字：英文字母、數字、點、-、_",
)
A_FUNCTION = Sentence("the name of one of {}", "{} 中的名稱之一")
ONE_OF = Sentence("one of {}", "下列之一：{}")
CONTENT = Sentence(
    "a text, null, or a list of parts such as {}",
    "文字、null，或如 {} 的段落清單",
)
NOT_SUPPORTED = Sentence(
    "{} is not supported here; please leave it out.", "此處不支援 {}，請將其移除。"
)
NOT_OFFERED_HERE = Sentence(
    "This model does not support {}; please leave it out.", "此模型不支援 {}，請將其移除。"
)
NO_ENDPOINT = Sentence(
    "This address is not offered; use POST /v1/chat/completions, POST /v1/completions or "
    "GET /v1/models.",
    "未提供此位址，請使用 POST /v1/chat/completions、POST /v1/completions 或 GET /v1/models。",
)
FUNCTIONS_COUNT = Sentence(
    "Functions (tools) that it describes: {}; please offer fewer.",
    "其中描述的函式（tools）數：{}，請減少提供的函式。",
)
NEEDS = Sentence("{} needs {}: true.", "{} 須搭配 {}: true。")
ONE_ANSWER = Sentence(
    "{} must be 1: one answer is made for each request.", "{} 必須為 1：每個請求只產生一個回答。"
)
UNKNOWN_MODEL = Sentence(
    "The model {} does not exist here; GET /v1/models lists those that do.",
    "此處沒有模型 {}，可用 GET /v1/models 列出現有的模型。",
)
NO_TOKEN = Sentence(
    "This needs an API token: send it as Authorization: Bearer TOKEN.",
    "此處需要 API 權杖：請以 Authorization: Bearer TOKEN 傳送。",
)
WRONG_TOKEN = Sentence("This API token is not known here.", "此處不認得這個 API 權杖。")
NOT_FROM_THERE = Sentence(
    "/v1 is for programs on this machine, by the name localhost; the executor's operator may open "
    "it with --api on and --api_token_file.",
    "/v1 僅供本機程式以 localhost 之名使用；管理者可用 --api on 與 --api_token_file 開放。",
)
