"""What clients are told that may not command this executor."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

ABORT_REFUSED = Sentence(
    "This request may not stop chats; the log of the executor says why.",
    "此請求無權停止對話，原因請見執行器的記錄。",
)
SHUTDOWN_REFUSED = Sentence(
    "Only the Kernel and this machine may shut this executor down.",
    "只有核心與本機可以關閉此執行器。",
)
