"""Why a bot's template cannot be used: reasons for the gap of catalog.BAD_TEMPLATE."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

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
