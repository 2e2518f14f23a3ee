/** The chat page: joins its parts.
 *
 * The seams, and who fills them:
 * - turn.js `seams`: where a turn gets the history and the fields of its form from, and who hears of its beginning and end.
 *   Each has a default, so a part can be added without touching turn.js. `answer(question, element)` answers a question
 *   that is on the screen already (a retry, an edited message).
 * - Every message has a last child `.actions` for its buttons (chats/message_actions.js).
 * - index.html: `nav#chats` (hidden until chats/sidebar.js fills it), `#tools` and `#attached` in the composer
 *   (attachments.js, settings.js).
 * - answer/answer_view.js draws an answer, also one that was kept: write(), openNote(), ..., say(line), done(exitCode).
 * - texts.js has every sentence; `data-text` and `data-label` in index.html name those that never change.
 */
import { $, randomId } from "./dom.js";
import { clearTranscript } from "./answer/transcript.js";
import { draft, focusMessage, setDraft, showControls } from "./composer.js";
import { accessCode, refresh, showExecutors } from "./executors.js";
import { userId } from "./kernel.js";
import { language, text } from "./texts.js";
import { leave, seams } from "./turn.js";

let historyId = 0, history = [];

Object.assign(seams, {
  accessCode,
  historyId: () => historyId,
  history: () => history,
  ended({ question }, { text: answer, notes, isCurrent }) {
    if (!isCurrent) return;
    if (answer) history.push({ isbot: false, msg: question }, { isbot: true, msg: answer });
    else if (!notes && !draft()) setDraft(question);    // offer it again
    refresh();
  },
  changed: showControls,
});

function newChat() {
  leave();
  history = [];
  historyId = randomId();
  clearTranscript();
  $("me").textContent = text.me(userId, historyId);
  showControls();
  focusMessage();
}

if (language === "zh") document.documentElement.lang = "zh-Hant";
document.title = `Kuwa · ${text.kernel}`;
for (const node of document.querySelectorAll("[data-text]")) node.textContent = text[node.dataset.text];
for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", text[node.dataset.label]);
$("new").addEventListener("click", newChat);
newChat();
showExecutors({ historyId: () => historyId, changed: showControls });
