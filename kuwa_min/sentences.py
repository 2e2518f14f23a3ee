"""Say what went wrong in the person's language; know our own words again when they come back.

A sentence is raised in English and translated where the answer leaves, so that whoever raises it
need not know who reads it. Knows no model and no service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from .errors import BAD_OPTION, UNEXPECTED

NO_INPUT = "[No input message entered]"
TOO_LONG = "[Sorry, The input message is too long!]"
OUT_OF_MEMORY = "[The model ran out of memory for this chat; a shorter one may fit.]"
NOT_ACCEPTED = "[The model's chat template does not accept this chat.]"
BAD_TEMPLATE = "[The bot's template cannot be used: {}]"
OVERFLOWED = "[The model's numbers overflowed: {}]"
IMAGE_NOT_READ = "[The image cannot be read: {}.]"
NO_MULTIMODAL = (
    "[This bot wants the model to see pictures and files, which is not allowed here; "
    "please ask whoever runs it to start it with --allow_multimodal.]"
)

NO_SLOT = "[The model is busy: no slot became free in time; please try again in a moment.]"
STOPPING = "[This executor is being stopped; please try again in a moment.]"
STOPPED = "[Stopped before the answer began.]"

# Of models that a service runs.
NO_OPENAI_KEY = (
    "[Please enter your OpenAI API Token in the user settings on the website "
    "in order to use the model.]"
)
NO_THIRD_PARTY_KEY = (
    "[Please enter your Custom Third-Party API Token in the user settings on the website "
    "in order to use the model.]"
)
NO_GOOGLE_KEY = (
    "[Please enter your Google API Token in the user settings of the website "
    "in order to use this model.]"
)
BAD_OPENAI_KEY = "[Invalid OpenAI API Token, please check if the OpenAI API Token is correct.]"
BAD_THIRD_PARTY_KEY = (
    "[Invalid Custom Third-Party API Token, please check if the Custom Third-Party API Token "
    "is correct.]"
)
BAD_GOOGLE_KEY = "[Invalid Google API Token, please check if the Google API Token is correct.]"
FORBIDDEN = "[This API key may not use the model {}; please choose another model or another key.]"
NO_MODEL = "[The service has no model named {}; please choose another one.]"
UNREACHABLE = (
    "[The model's service cannot be reached; please try again later, "
    "or ask whoever runs this bot to look at it.]"
)
NOT_TRUSTED = (
    "[The certificate of the model's service cannot be verified; "
    "please ask whoever runs this bot to look at it.]"
)
BUSY = "[The model's service is busy; please try again in a moment.]"
QUOTA = "[The quota of this API key is used up; please check its plan and billing.]"
SERVICE_FAILED = "[The model's service failed (error {}); please try again in a moment.]"
SERVICE_REFUSED = (
    "[The model's service does not accept this request (error {}); "
    "please ask whoever runs this bot to look at the log.]"
)
NOT_AN_OPTION = "[The model's service does not accept the option {}; please ask for another value.]"
TOO_SLOW = "[The model's service did not answer in time; please try again in a moment.]"
GARBLED = (
    "[What the model's service answered cannot be understood; "
    "please ask whoever runs this bot to check the service's address.]"
)
NO_IMAGES = "[The model {} takes no images; please send the message without one.]"
NOT_ALLOWED = "[The model's service refuses this chat by its content rules; please rephrase it.]"
NOT_OFFERED = (
    "[The model's service is not offered where this program runs; "
    "please ask whoever runs this bot to look at it.]"
)
NO_ANSWER = "[The model gave no answer; please ask again, perhaps in other words.]"

# Side notes: for the person, beside the answer.
CUT_SHORT = "The executor was stopped: this answer ends early."
CUT_BY_LENGTH = "The answer was cut off: it is as long as it may be."
CUT_BY_RULES = "The answer was cut off by the content rules of the model's service."
CUT_BY_RECITATION = "The answer was cut off: it came too close to a text under copyright."
BROKEN_OFF = "The connection to the model's service ended early: the answer may be incomplete."
WANTS_A_TOOL = "The model asked for a tool, and this program has none for it."
ENDED_ODDLY = "The model's service ended the answer for a reason of its own: {}."

# Side notes on links in a chat; the first gap is for the link, which the model sees as text.
LINK_BAD_ADDRESS = "{} was not read: its address cannot be used."
LINK_PRIVATE = "{} was not read: its server is unknown here or on a private network."
LINK_SLOW = "{} was not read: it took too long."
LINK_NOT_TRUSTED = "{} was not read: the certificate of its server cannot be verified."
LINK_NO_SERVER = "{} was not read: nothing answers there as a web server does."
LINK_STATUS = "{} was not read: its server answers {}."
LINK_REDIRECTED = "{} was not read: it was redirected too often."
LINK_TOO_LARGE = "{} was not read: it is larger than {} MiB."
LINK_INCOMPLETE = "{} was not read: it broke off in the middle."
LINK_DAMAGED = "{} was not read: it is damaged."
LINK_PIXELS = "{} was not read: it has {} x {} pixels, and at most {} million are taken."
LINK_NO_FILE = "{} was not read: it is no file of a kind that this model takes."
MORE_LINKS = "{} more links were not read."
FILES_TOO_MANY = "Only the newest pictures and files of this chat were read, {} at most."
FILES_TOO_LARGE = "Older pictures and files were left out: together they are larger than {} MiB."
LAST_FILE_ONLY = "The model took only the last picture of this chat."

CHINESE = {  # as Taiwan writes it
    NO_INPUT: "[尚未輸入訊息]",
    TOO_LONG: "[抱歉，輸入的訊息太長了！]",
    BAD_OPTION: "[無法使用選項 llm_{}。]",
    IMAGE_NOT_READ: "[無法讀取圖片：{}。]",
    OUT_OF_MEMORY: "[模型處理此對話時記憶體不足，較短的對話或許可行。]",
    NOT_ACCEPTED: "[模型的對話範本不接受此對話。]",
    BAD_TEMPLATE: "[無法使用此機器人的範本：{}]",
    OVERFLOWED: "[模型計算時數值溢位：{}]",
    NO_SLOT: "[模型忙碌中，等候時間過長，請稍候再試。]",
    STOPPING: "[此執行器正在停止，請稍候再試。]",
    STOPPED: "[已在回答開始前停止。]",
    NO_OPENAI_KEY: "[請先在網站的使用者設定中輸入您的 OpenAI API Token，才能使用此模型。]",
    NO_THIRD_PARTY_KEY: "[請先在網站的使用者設定中輸入您的自訂第三方 API Token，才能使用此模型。]",
    NO_GOOGLE_KEY: "[請先在網站的使用者設定中輸入您的 Google API Token，才能使用此模型。]",
    BAD_OPENAI_KEY: "[OpenAI API Token 無效，請檢查 OpenAI API Token 是否正確。]",
    BAD_THIRD_PARTY_KEY: "[自訂第三方 API Token 無效，請檢查自訂第三方 API Token 是否正確。]",
    BAD_GOOGLE_KEY: "[Google API Token 無效，請檢查 Google API Token 是否正確。]",
    FORBIDDEN: "[此 API 金鑰無權使用模型 {}，請改用其他模型或其他金鑰。]",
    NO_MODEL: "[模型服務中沒有名為 {} 的模型，請改用其他模型。]",
    UNREACHABLE: "[無法連線至模型服務，請稍後再試，或請管理者檢查。]",
    NOT_TRUSTED: "[無法驗證模型服務的憑證，請管理者檢查。]",
    BUSY: "[模型服務忙碌中，請稍候再試。]",
    QUOTA: "[此 API 金鑰的額度已用完，請檢查其方案與帳單。]",
    SERVICE_FAILED: "[模型服務發生錯誤（錯誤 {}），請稍候再試。]",
    SERVICE_REFUSED: "[模型服務不接受此請求（錯誤 {}），請管理者查看記錄檔。]",
    NOT_AN_OPTION: "[模型服務不接受選項 {}，請改用其他值。]",
    TOO_SLOW: "[模型服務未在時限內回應，請稍候再試。]",
    GARBLED: "[無法理解模型服務的回應，請管理者檢查服務位址。]",
    NO_IMAGES: "[模型 {} 不接受圖片，請傳送不含圖片的訊息。]",
    NOT_ALLOWED: "[模型服務依其內容規範拒絕了此對話，請換個說法。]",
    NOT_OFFERED: "[模型服務未在此程式所在的地區提供，請管理者檢查。]",
    NO_ANSWER: "[模型沒有給出回答，請再問一次，或換個說法。]",
    CUT_SHORT: "執行器已停止，因此回答提早結束。",
    CUT_BY_LENGTH: "回答已達長度上限，因此被截斷。",
    CUT_BY_RULES: "回答因模型服務的內容規範而被截斷。",
    CUT_BY_RECITATION: "回答過於接近受著作權保護的文字，因此被截斷。",
    BROKEN_OFF: "與模型服務的連線提早結束，回答可能不完整。",
    WANTS_A_TOOL: "模型要求使用工具，但本程式沒有提供工具。",
    ENDED_ODDLY: "模型服務因自身的原因結束了回答：{}。",
    NO_MULTIMODAL: (
        "[此機器人要讓模型看圖片與檔案，但這裡不允許，請管理者以 --allow_multimodal 啟動。]"
    ),
    LINK_BAD_ADDRESS: "未讀取 {}：無法使用此網址。",
    LINK_PRIVATE: "未讀取 {}：找不到其伺服器，或伺服器位於私人網路。",
    LINK_SLOW: "未讀取 {}：等候時間過長。",
    LINK_NOT_TRUSTED: "未讀取 {}：無法驗證其伺服器的憑證。",
    LINK_NO_SERVER: "未讀取 {}：該處沒有網頁伺服器回應。",
    LINK_STATUS: "未讀取 {}：其伺服器回應 {}。",
    LINK_REDIRECTED: "未讀取 {}：重新導向次數過多。",
    LINK_TOO_LARGE: "未讀取 {}：檔案大於 {} MiB。",
    LINK_INCOMPLETE: "未讀取 {}：傳輸中斷。",
    LINK_DAMAGED: "未讀取 {}：檔案已損壞。",
    LINK_PIXELS: "未讀取 {}：圖片有 {} x {} 像素，最多接受 {} 百萬像素。",
    LINK_NO_FILE: "未讀取 {}：此模型不接受這種檔案。",
    MORE_LINKS: "另有 {} 個連結未讀取。",
    FILES_TOO_MANY: "只讀取了此對話中最新的圖片與檔案，最多 {} 個。",
    FILES_TOO_LARGE: "較舊的圖片與檔案已略過：合計大於 {} MiB。",
    LAST_FILE_ONLY: "模型只看了此對話的最後一張圖片。",
}
ENGLISH_ONLY = (UNEXPECTED,)
GAP = r"([^\n]*)"  # whatever stands in a sentence; it spans no lines
LANGUAGE = r"\s*([A-Za-z*]{1,8})[\w-]*\s*(?:;\s*q\s*=\s*([\d.]{1,5}))?\s*"  # compiled at first use


class Translation(NamedTuple):
    """One sentence: how it is recognised, and what it says in Chinese."""

    pattern: re.Pattern[str]
    chinese: str


def reads_chinese(accept_language: object) -> bool:
    """Tell from an Accept-Language field, which may be absent, whether Chinese comes first."""
    if not isinstance(accept_language, str):
        return False
    parts = accept_language.split(",")
    wishes = [found for part in parts if (found := re.fullmatch(LANGUAGE, part))]
    first = max(wishes, key=lambda found: _weight(found[2]), default=None)
    return first is not None and first[1].lower() == "zh"


def _weight(text: str | None) -> float:
    try:
        return float(text or 1)
    except ValueError:
        return 0.0


def translate(sentence: str) -> str:
    """Return a sentence of ours in Chinese; what is none of them stays as it is."""
    for one in _translations():
        found = one.pattern.fullmatch(sentence)
        if found:
            return one.chinese.format(*found.groups())
    return sentence


@cache
def _translations() -> list[Translation]:
    return [
        Translation(re.compile(_pattern(english, GAP)), chinese)
        for english, chinese in CHINESE.items()
    ]


def _pattern(sentence: str, gap: str) -> str:
    """Return a pattern for a sentence, with this pattern for each of its gaps."""
    return re.escape(sentence).replace(r"\{\}", gap)


def ours() -> str:
    """Return a pattern of every sentence that may end an answer of ours, in any language."""
    known: Sequence[str] = [*ENGLISH_ONLY, *CHINESE, *CHINESE.values()]
    return "|".join(_pattern(one, r"[^\n]*") for one in known if _is_whole(one))


def _is_whole(sentence: str) -> bool:
    """Tell a sentence that is an answer from a side note, which its marks already take out."""
    return sentence.startswith("[") or sentence == UNEXPECTED
