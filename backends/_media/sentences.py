"""Side notes on the links of a chat. The first gap is for the link, which stays text."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

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
LINK_NOT_TAKEN = Sentence(
    "{} was not read: this model cannot use a picture like it.",
    "未讀取 {}：此模型無法使用這樣的圖片。",
)
LINK_NO_ROOM = Sentence(
    "{} was not read: it takes {} tokens, and there is room for {} in this chat.",
    "未讀取 {}：圖片需要 {} 個 token，此對話只剩 {} 個的空間。",
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
