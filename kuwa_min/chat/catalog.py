"""Every sentence that the users of a chat may read, in English and in Chinese side by side.

Code that raises or yields a Sentence knows no language; `answer` and `server` render it in the one
that the request's Accept-Language asks for. Chinese is written as in Taiwan. What operators read
(log, --help, errors at the start) is English only and stands where it is logged or raised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from kuwa_min.errors import UNEXPECTED, message_of

Language = Literal["en", "zh"]
ENGLISH: Language = "en"
CHINESE: Language = "zh"
# One language of an Accept-Language field and its weight; compiled at its first use.
LANGUAGE = r"\s*([A-Za-z*]{1,8})[\w-]*\s*(?:;\s*q\s*=\s*([\d.]{1,5}))?\s*"


class Sentence(str):
    """A sentence in both languages; as a str it is the English one.

    english, chinese: templates with the same gaps, `{}`, which `format` fills. A value may be a
    Sentence itself, such as a reason: it is rendered in the language of the whole. All other
    methods of str, f-strings and join give English text.
    """

    __slots__ = ("_templates", "_values")

    _templates: dict[Language, str]
    _values: tuple[object, ...]

    def __new__(cls, english: str, chinese: str, values: tuple[object, ...] = ()) -> Sentence:
        """Create a sentence; without values its gaps stay open."""
        sentence = super().__new__(cls, english.format(*values) if values else english)
        sentence._templates = {ENGLISH: english, CHINESE: chinese}
        sentence._values = values
        return sentence

    def format(self, *values: object) -> Sentence:  # type: ignore[override]
        """Return the sentence with these values in its gaps; itself if they are filled already."""
        if self._values:
            return self
        return Sentence(self._templates[ENGLISH], self._templates[CHINESE], values)

    def render(self, language: Language) -> str:
        """Return the text in a language."""
        template = self._templates[language]
        if not self._values:
            return template
        return template.format(*(_render_value(value, language) for value in self._values))


def _render_value(value: object, language: Language) -> object:
    return value.render(language) if isinstance(value, Sentence) else value


def render(text: str, language: Language) -> str:
    """Return a Sentence in a language; other text, such as a custom executor's, unchanged."""
    return text.render(language) if isinstance(text, Sentence) else text


def join(sentences: Iterable[str]) -> Sentence:
    """Return sentences with spaces between them as one."""
    values = tuple(sentences)
    template = " ".join(["{}"] * len(values))
    return Sentence(template, template, values)


def sentence_of(error: BaseException) -> str:
    """Return the Sentence that an exception was raised with, or else its message."""
    first = error.args[0] if error.args else None
    return first if isinstance(first, Sentence) else message_of(error)


def language_of(accept_language: object) -> Language:
    """Return the language to render in: Chinese if an Accept-Language field prefers it.

    accept_language: the field's value; English for None and for what cannot be parsed.
    """
    if not isinstance(accept_language, str):
        return ENGLISH
    parts = accept_language.split(",")
    wishes = [found for part in parts if (found := re.fullmatch(LANGUAGE, part))]
    first = max(wishes, key=lambda found: _weight(found[2]), default=None)
    return CHINESE if first is not None and first[1].lower() == "zh" else ENGLISH


def _weight(text: str | None) -> float:
    try:
        return float(text or 1)
    except ValueError:
        return 0.0


def all_sentences() -> dict[str, Sentence]:
    """Return the sentences of this catalog by name."""
    return {name: one for name, one in globals().items() if isinstance(one, Sentence)}


def own_answers() -> str:
    """Return a pattern of every sentence that may end an answer, in either language.

    Prompts leave these out of the history: the model never said them.
    """
    whole = [one for one in all_sentences().values() if one.startswith("[")]
    texts = [
        UNEXPECTED,
        *(one.render(language) for language in (ENGLISH, CHINESE) for one in whole),
    ]
    return "|".join(re.escape(text).replace(r"\{\}", r"[^\n]*") for text in texts)


# Frames, the same in both languages.
ON_NEW_LINE = Sentence("\n{}", "\n{}")  # behind what the model has said already

# Answers, each of them whole: a prompt leaves them out of the history, see `own_answers`.
NO_INPUT = Sentence("[No input message entered]", "[尚未輸入訊息]")
TOO_LONG = Sentence("[Sorry, The input message is too long!]", "[抱歉，輸入的訊息太長了！]")
BAD_OPTION = Sentence("[The option llm_{}.]", "[無法使用選項 llm_{}。]")
NO_SLOT = Sentence(
    "[The model is busy: no slot became free in time; please try again in a moment.]",
    "[模型忙碌中，等候時間過長，請稍候再試。]",
)
STOPPING = Sentence(
    "[This executor is being stopped; please try again in a moment.]",
    "[此執行器正在停止，請稍候再試。]",
)
STOPPED = Sentence("[Stopped before the answer began.]", "[已在回答開始前停止。]")
NO_ANSWER = Sentence(
    "[The model gave no answer; please ask again, perhaps in other words.]",
    "[模型沒有給出回答，請再問一次，或換個說法。]",
)

# Of models on this machine.
OUT_OF_MEMORY = Sentence(
    "[The model ran out of memory for this chat; a shorter one may fit.]",
    "[模型處理此對話時記憶體不足，較短的對話或許可行。]",
)
NOT_ACCEPTED = Sentence(
    "[The model's chat template does not accept this chat.]", "[模型的對話範本不接受此對話。]"
)
BAD_TEMPLATE = Sentence("[The bot's template cannot be used: {}]", "[無法使用此機器人的範本：{}]")
OVERFLOWED = Sentence("[The model's numbers overflowed: {}]", "[模型計算時數值溢位：{}]")

# Of models that a service runs.
NO_OPENAI_KEY = Sentence(
    (
        "[Please enter your OpenAI API Token in the user settings on the website in order to use "
        "the model.]"
    ),
    "[請先在網站的使用者設定中輸入您的 OpenAI API Token，才能使用此模型。]",
)
NO_THIRD_PARTY_KEY = Sentence(
    (
        "[Please enter your Custom Third-Party API Token in the user settings on the website in "
        "order to use the model.]"
    ),
    "[請先在網站的使用者設定中輸入您的自訂第三方 API Token，才能使用此模型。]",
)
NO_GOOGLE_KEY = Sentence(
    (
        "[Please enter your Google API Token in the user settings of the website in order to use "
        "this model.]"
    ),
    "[請先在網站的使用者設定中輸入您的 Google API Token，才能使用此模型。]",
)
BAD_OPENAI_KEY = Sentence(
    "[Invalid OpenAI API Token, please check if the OpenAI API Token is correct.]",
    "[OpenAI API Token 無效，請檢查 OpenAI API Token 是否正確。]",
)
BAD_THIRD_PARTY_KEY = Sentence(
    (
        "[Invalid Custom Third-Party API Token, please check if the Custom Third-Party API Token "
        "is correct.]"
    ),
    "[自訂第三方 API Token 無效，請檢查自訂第三方 API Token 是否正確。]",
)
BAD_GOOGLE_KEY = Sentence(
    "[Invalid Google API Token, please check if the Google API Token is correct.]",
    "[Google API Token 無效，請檢查 Google API Token 是否正確。]",
)
FORBIDDEN = Sentence(
    "[This API key may not use the model {}; please choose another model or another key.]",
    "[此 API 金鑰無權使用模型 {}，請改用其他模型或其他金鑰。]",
)
NO_MODEL = Sentence(
    "[The service has no model named {}; please choose another one.]",
    "[模型服務中沒有名為 {} 的模型，請改用其他模型。]",
)
UNREACHABLE = Sentence(
    (
        "[The model's service cannot be reached; please try again later, or ask whoever runs this "
        "bot to look at it.]"
    ),
    "[無法連線至模型服務，請稍後再試，或請管理者檢查。]",
)
NOT_TRUSTED = Sentence(
    (
        "[The certificate of the model's service cannot be verified; please ask whoever runs this "
        "bot to look at it.]"
    ),
    "[無法驗證模型服務的憑證，請管理者檢查。]",
)
BUSY = Sentence(
    "[The model's service is busy; please try again in a moment.]", "[模型服務忙碌中，請稍候再試。]"
)
QUOTA = Sentence(
    "[The quota of this API key is used up; please check its plan and billing.]",
    "[此 API 金鑰的額度已用完，請檢查其方案與帳單。]",
)
SERVICE_FAILED = Sentence(
    "[The model's service failed (error {}); please try again in a moment.]",
    "[模型服務發生錯誤（錯誤 {}），請稍候再試。]",
)
SERVICE_REFUSED = Sentence(
    (
        "[The model's service does not accept this request (error {}); please ask whoever runs "
        "this bot to look at the log.]"
    ),
    "[模型服務不接受此請求（錯誤 {}），請管理者查看記錄檔。]",
)
NOT_AN_OPTION = Sentence(
    "[The model's service does not accept the option {}; please ask for another value.]",
    "[模型服務不接受選項 {}，請改用其他值。]",
)
TOO_SLOW = Sentence(
    "[The model's service did not answer in time; please try again in a moment.]",
    "[模型服務未在時限內回應，請稍候再試。]",
)
GARBLED = Sentence(
    (
        "[What the model's service answered cannot be understood; please ask whoever runs this bot "
        "to check the service's address.]"
    ),
    "[無法理解模型服務的回應，請管理者檢查服務位址。]",
)
NO_IMAGES = Sentence(
    "[The model {} takes no images; please send the message without one.]",
    "[模型 {} 不接受圖片，請傳送不含圖片的訊息。]",
)
IMAGE_NOT_READ = Sentence("[The image cannot be read: {}.]", "[無法讀取圖片：{}。]")
NO_MULTIMODAL = Sentence(
    (
        "[This bot wants the model to see pictures and files, which is not allowed here; please "
        "ask whoever runs it to start it with --allow_multimodal.]"
    ),
    "[此機器人要讓模型看圖片與檔案，但這裡不允許，請管理者以 --allow_multimodal 啟動。]",
)
NOT_ALLOWED = Sentence(
    "[The model's service refuses this chat by its content rules; please rephrase it.]",
    "[模型服務依其內容規範拒絕了此對話，請換個說法。]",
)
NOT_OFFERED = Sentence(
    (
        "[The model's service is not offered where this program runs; please ask whoever runs this "
        "bot to look at it.]"
    ),
    "[模型服務未在此程式所在的地區提供，請管理者檢查。]",
)

# Requests that are refused; the Kernel shows the sentence as the answer.
LOADING = Sentence(
    "The model is still loading. Please try again in a moment.", "模型仍在載入中，請稍候再試。"
)
EMPTY_REQUEST = Sentence("Received empty request!", "收到空的請求！")
ENDPOINT_BUSY = Sentence("Processing another request.", "正在處理另一個請求。")
TOO_MANY_FIELDS = Sentence("The form has more than {} fields.", "表單的欄位超過 {} 個。")
MALFORMED_HISTORY = Sentence(
    "The chat history could not be read: it must be a JSON list of messages.",
    "無法讀取對話紀錄：必須是 JSON 格式的訊息清單。",
)
MALFORMED_MODELFILE = Sentence(
    "The Modelfile of this bot could not be read: it must be a JSON list.",
    "無法讀取此機器人的 Modelfile：必須是 JSON 格式的清單。",
)

# Side notes: shown beside the answer.
CUT_SHORT = Sentence(
    "The executor was stopped: this answer ends early.", "執行器已停止，因此回答提早結束。"
)
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
CONTEXT_FULL = Sentence(
    "The answer was cut off: the model's context of {} tokens is full.",
    "回答被截斷：模型的上下文（{} 個 token）已滿。",
)
TIMED_OUT = Sentence(
    "The answer took longer than {} s and was cut off.", "回答時間超過 {} 秒，因此被截斷。"
)

# Side notes on links in a chat; the first gap is for the link, which the model sees as text.
LINK_BAD_ADDRESS = Sentence(
    "{} was not read: its address cannot be used.", "未讀取 {}：無法使用此網址。"
)
LINK_PRIVATE = Sentence(
    "{} was not read: its server is unknown here or on a private network.",
    "未讀取 {}：找不到其伺服器，或伺服器位於私人網路。",
)
LINK_SLOW = Sentence("{} was not read: it took too long.", "未讀取 {}：等候時間過長。")
LINK_NOT_TRUSTED = Sentence(
    "{} was not read: the certificate of its server cannot be verified.",
    "未讀取 {}：無法驗證其伺服器的憑證。",
)
LINK_NO_SERVER = Sentence(
    "{} was not read: nothing answers there as a web server does.",
    "未讀取 {}：該處沒有網頁伺服器回應。",
)
LINK_STATUS = Sentence("{} was not read: its server answers {}.", "未讀取 {}：其伺服器回應 {}。")
LINK_REDIRECTED = Sentence(
    "{} was not read: it was redirected too often.", "未讀取 {}：重新導向次數過多。"
)
LINK_TOO_LARGE = Sentence(
    "{} was not read: it is larger than {} MiB.", "未讀取 {}：檔案大於 {} MiB。"
)
LINK_INCOMPLETE = Sentence("{} was not read: it broke off in the middle.", "未讀取 {}：傳輸中斷。")
LINK_DAMAGED = Sentence("{} was not read: it is damaged.", "未讀取 {}：檔案已損壞。")
LINK_PIXELS = Sentence(
    "{} was not read: it has {} x {} pixels, and at most {} million are taken.",
    "未讀取 {}：圖片有 {} x {} 像素，最多接受 {} 百萬像素。",
)
LINK_NO_FILE = Sentence(
    "{} was not read: it is no file of a kind that this model takes.",
    "未讀取 {}：此模型不接受這種檔案。",
)
MORE_LINKS = Sentence("{} more links were not read.", "另有 {} 個連結未讀取。")
FILES_TOO_MANY = Sentence(
    "Only the newest pictures and files of this chat were read, {} at most.",
    "只讀取了此對話中最新的圖片與檔案，最多 {} 個。",
)
FILES_TOO_LARGE = Sentence(
    "Older pictures and files were left out: together they are larger than {} MiB.",
    "較舊的圖片與檔案已略過：合計大於 {} MiB。",
)
LAST_FILE_ONLY = Sentence(
    "The model took only the last picture of this chat.", "模型只看了此對話的最後一張圖片。"
)

# Why an option cannot be used; they fill the gap of BAD_OPTION.
OPTION_REASON = Sentence("{} {}", "{}：{}")
MUST_BE_TRUTH = Sentence("must be true or false", "必須是 true 或 false")
MUST_BE_WHOLE = Sentence("must be a whole number", "必須是整數")
MUST_BE_NUMBER = Sentence("must be a number", "必須是數字")
MUST_BE_FINITE = Sentence("must be a finite number", "必須是有限的數字")
MUST_BE_TEXT = Sentence("must be text", "必須是文字")
MUST_BE_TEXTS = Sentence(
    "must be a text or a list of texts, {} at most, none longer than {}",
    "必須是文字或文字清單，最多 {} 項，每項不超過 {} 個字元",
)
MUST_BE_AT_LEAST = Sentence("must be at least {}", "不得小於 {}")
MUST_BE_AT_MOST = Sentence("must be at most {}", "不得大於 {}")
MUST_BE_NAME = Sentence("must be a name", "必須是名稱")
MUST_BE_JSON = Sentence("must be something that JSON can hold", "必須是 JSON 能表示的值")
MUST_SUIT_SERVICE = Sentence("must be as the service takes it", "必須是模型服務接受的值")
MUST_MAP_TOKENS = Sentence("must map tokens' numbers to numbers", "必須是 token 編號與數字的對應")
MUST_HAVE_FEWER_TOKENS = Sentence("must have {} tokens at most", "最多只能有 {} 個 token")
MUST_BE_BIASES = Sentence(
    "must be from {} to {} for each token", "每個 token 的值必須介於 {} 與 {} 之間"
)

# Why a bot's template cannot be used; they fill the gap of BAD_TEMPLATE.
TEMPLATE_TOO_LONG = Sentence("it is longer than {} characters", "長度超過 {} 個字元")
TEMPLATE_TOO_SLOW = Sentence("it took longer than {} s", "處理時間超過 {} 秒")
TEMPLATE_TOO_LARGE = Sentence("it needed more than {} MB of memory", "需要的記憶體超過 {} MB")
TEMPLATE_TEXT_TOO_LONG = Sentence("it wrote more than {} characters", "輸出超過 {} 個字元")
TEMPLATE_TEXT_BROKEN = Sentence("it wrote half a character", "輸出了不完整的字元")
TEMPLATES_TOO_MANY = Sentence("too many templates are being rendered", "正在處理的範本過多")
TEMPLATE_PROCESS_NOT_STARTED = Sentence(
    "its process could not be started: {}", "無法啟動其處理程序：{}"
)
TEMPLATE_PROCESS_ENDED = Sentence("its process ended", "其處理程序已結束")
TEMPLATE_PROCESS_NONSENSE = Sentence("its process answered nonsense", "無法理解其處理程序的回應")
PROGRAM_ENDING = Sentence("the program is ending", "程式正在結束")

# Reasons of other sentences.
TRY_CACHE_TYPE = Sentence(
    "--cache_type f32, or the model's file in another precision, may help.",
    "--cache_type f32 或其他精度的模型檔案或許有幫助。",
)
TRY_DTYPE = Sentence("another --dtype may help.", "其他的 --dtype 或許有幫助。")
IMAGE_USELESS = Sentence("the model's service cannot make anything of it", "模型服務無法處理它")
