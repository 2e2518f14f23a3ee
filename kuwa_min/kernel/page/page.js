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
import { $ } from "./dom.js";
import { showControls } from "./composer.js";
import { accessCode, showExecutors } from "./executors.js";
import { showActions } from "./chats/message_actions.js";
import { currentChat, on, setSettings, startSession } from "./chats/session.js";
import { showSidebar } from "./chats/sidebar.js";
import { modelfileOf, showSettings } from "./settings.js";
import { language, text } from "./texts.js";
import { seams } from "./turn.js";

Object.assign(seams, {
  accessCode,
  fields: async () => ({ modelfile: JSON.stringify(modelfileOf(currentChat().settings)) }),
  changed: showControls,
});
if (language === "zh") document.documentElement.lang = "zh-Hant";
document.title = `Kuwa · ${text.kernel}`;
for (const node of document.querySelectorAll("[data-text]")) node.textContent = text[node.dataset.text];
for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", text[node.dataset.label]);
showActions();
showSidebar();
on("drawn", showSettings({ read: () => currentChat().settings, write: setSettings }));
startSession();
showExecutors({ historyId: () => currentChat().history_id, changed: showControls });
