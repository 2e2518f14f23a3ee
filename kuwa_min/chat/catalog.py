"""The sentences that may be a whole answer, of the core and of all backends."""

from __future__ import annotations

import re

from kuwa_min.errors import UNEXPECTED

from .sentence import CHINESE, ENGLISH, Sentence


def answer_pattern() -> str:
    """Return a pattern of every sentence that may end an answer, in either language.

    Prompts leave these out of the history: the model never said them.
    """
    named = [one for one in globals().values() if isinstance(one, Sentence)]
    whole = [one for one in named if one.startswith("[")]
    texts = [
        UNEXPECTED,
        *(one.render(language) for language in (ENGLISH, CHINESE) for one in whole),
    ]
    return "|".join(re.escape(text).replace(r"\{\}", r"[^\n]*") for text in texts)


def is_whole_answer(text: str) -> bool:
    """Tell whether a text is one of the answers below, which no model writes."""
    return isinstance(text, Sentence) and text.startswith("[")


# Answers, each of them whole: a prompt leaves them out of the history, see `answer_pattern`.
NO_INPUT = Sentence("[No input message entered]", "[尚未輸入訊息]")
TOO_LONG = Sentence("[Sorry, The input message is too long!]", "[抱歉，輸入的訊息太長了！]")
BAD_OPTION = Sentence("[The option llm_{}.]", "[無法使用選項 llm_{}。]")
TOOLS_WITH_MARKUP = Sentence(
    "[What tools say must hold none of the model's markup.]", "[工具的說明不得含有模型的標記。]"
)
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
NOT_WHOLE = Sentence(
    "[The answer is too long to be sent as a whole; please ask for a stream.]",
    "[回答太長，無法一次送出，請改用串流。]",
)
ONLY_THOUGHT = Sentence(
    (
        "[The model thought until its answer had to end; please ask for longer answers or for less "
        "thinking.]"
    ),
    "[模型尚在思考，回答長度就已達上限；請允許較長的回答，或減少思考。]",
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
TOO_COMPLEX = Sentence(
    (
        "[The answer could not be held to its schema or grammar, which became too complex; please "
        "use a simpler one.]"
    ),
    "[回答無法符合結構描述或文法，因為它變得太複雜，請改用較簡單的。]",
)

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
QUEUE_FULL = Sentence(
    "Too many chats are waiting already. Please try again in a moment.",
    "等候中的對話已滿，請稍候再試。",
)
ENDPOINT_BUSY = Sentence("Processing another request.", "正在處理另一個請求。")
TOO_MANY_FIELDS = Sentence("The form has more than {} fields.", "表單的欄位超過 {} 個。")
MALFORMED_FORM = Sentence(
    "The form could not be read: percent signs in it are not escaped.",
    "無法讀取表單：其中的百分號未經編碼。",
)
MALFORMED_HISTORY = Sentence(
    "The chat history could not be read: it must be a JSON list of messages.",
    "無法讀取對話紀錄：必須是 JSON 格式的訊息清單。",
)
TOO_MANY_MESSAGES = Sentence(
    "The chat has too many messages. Please start a new one.", "對話的訊息太多，請開始新的對話。"
)
MODELFILE_TOO_LONG = Sentence(
    "The Modelfile of this bot has too many commands.", "此機器人的 Modelfile 指令太多。"
)
MALFORMED_MODELFILE = Sentence(
    "The Modelfile of this bot could not be read: it must be a JSON list.",
    "無法讀取此機器人的 Modelfile：必須是 JSON 格式的清單。",
)

# Side notes: shown beside the answer.
CUT_SHORT = Sentence(
    "The executor was stopped: this answer ends early.", "執行器已停止，因此回答提早結束。"
)
