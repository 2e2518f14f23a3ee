"""What `chat` says at the terminal."""

from __future__ import annotations

from kuwa_min.chat.sentence import Sentence

BEGUN = Sentence("{} at {}; /help says what can be done", "{}，位於 {}；輸入 /help 查看說明")
HOW_TO_CHAT = Sentence(
    '''\
Enter sends. A line that ends in \\ goes on in the next one; """ begins and ends several lines.
Ctrl-C stops an answer, Ctrl-D ends the chat.
  /retry        ask the last question again, in place of its answer
  /system TEXT  set the system prompt from the next message on; without TEXT: none
  /new          begin a new conversation
  /save FILE    write the conversation to a new file: Markdown, or JSON if it ends in .json
  /thoughts     hide what models think before they answer, or show it again
  /help         this
A message that begins with / is written with two of them.''',
    '''\
按 Enter 送出。行末加上 \\ 可接續下一行；以 """ 開始與結束多行訊息。
Ctrl-C 停止回答，Ctrl-D 結束對話。
  /retry        重新詢問上一個問題，並取代其回答
  /system TEXT  設定系統提示，自下一則訊息起生效；不加 TEXT 則清除
  /new          開始新的對話
  /save FILE    將對話寫入新檔案：Markdown 格式，檔名以 .json 結尾則為 JSON
  /thoughts     隱藏模型回答前的思考內容，或再次顯示
  /help         顯示此說明
以 / 開頭的訊息，請輸入兩個 /。''',
)
HOW_TO_END = Sentence("(Ctrl-D ends the chat)", "（按 Ctrl-D 結束對話）")
THINKING = Sentence("thinking…", "思考中…")
THOUGHTS_HIDDEN = Sentence("thoughts are hidden", "已隱藏思考內容")
THOUGHTS_SHOWN = Sentence("thoughts are shown", "會顯示思考內容")
ANSWER_STOPPED = Sentence("(stopped)", "（已停止）")
CUT = Sentence("(the answer is incomplete)", "（回答不完整）")
FAILED_ANSWER = Sentence(
    "(the answer failed; /retry asks again)", "（回答失敗；/retry 可再問一次）"
)
EMPTY_ANSWER = Sentence("(the answer is empty)", "（回答是空的）")
NOTE_LINE = Sentence("note: {}", "附註：{}")
ERROR_LINE = Sentence("error: {}", "錯誤：{}")
ERROR_AND_RETRY = Sentence("error: {}; /retry asks again", "錯誤：{}；/retry 可再問一次")
SYSTEM_SET = Sentence("the system prompt is set", "已設定系統提示")
SYSTEM_CLEARED = Sentence("there is no system prompt now", "已清除系統提示")
NEW_CONVERSATION = Sentence("a new conversation", "新的對話")
SAVED = Sentence("saved to {}", "已儲存至 {}")
NO_QUESTION = Sentence("there is no question yet", "還沒有問過問題")
NO_FILE_NAME = Sentence("/save needs the name of a file", "/save 需要檔名")
NO_COMMAND = Sentence(
    "there is no {}; /help lists what there is", "沒有 {} 這個指令；/help 列出所有指令"
)
FILE_EXISTS = Sentence("{} exists already: give another name", "{} 已存在，請換一個檔名")
NOT_WRITTEN = Sentence("{} cannot be written: {}", "無法寫入 {}：{}")
FAILED_AT = Sentence("{}: {}", "{}：{}")
NOTHING_LISTENS = Sentence("nothing listens there", "該處沒有伺服器")
NOT_IN_TIME = Sentence("no answer in time", "逾時未回應")
BROKE_OFF = Sentence("the answer broke off", "回答中斷了")
NO_EXECUTOR = Sentence("no executor serves {} at the moment", "目前沒有執行器提供 {}")
WAITING_FOR_SLOT = Sentence("waiting for a free slot", "正在等待空閒的執行器")
