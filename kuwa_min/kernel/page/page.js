/** The entry of the chat page: connects its parts.
 *
 * - turn.js: one question and its answer. Its `hooks` give it the history and fields of the form, and report its beginning
 *   and end; the session (chats/session.js) and this file set them.
 * - answer/answer_view.js draws an answer, streamed or stored; markdown/ renders its text. The last child of a message,
 *   `.actions`, has its buttons (chats/message_actions.js).
 * - chats/: the stored chats, their sidebar, branches, export and import.
 * - executors.js: the table of executors, and the list of access codes that follows it.
 * - texts.js: every sentence; `data-text` and `data-label` in index.html name those that never change.
 */
import { showControls } from "./composer.js";
import { accessCode, showExecutors } from "./executors.js";
import { showActions } from "./chats/message_actions.js";
import { currentChat, on, setSettings, startSession } from "./chats/session.js";
import { showSidebar } from "./chats/sidebar.js";
import { commandsFor } from "./attachments/sent_text.js";
import { modelfileOf, showSettings } from "./settings.js";
import { language, text } from "./texts.js";
import { hooks } from "./turn.js";

Object.assign(hooks, {
  accessCode,
  fields: async messages => ({
    modelfile: JSON.stringify([...modelfileOf(currentChat().settings), ...commandsFor(messages)]),
  }),
});
if (language === "zh") document.documentElement.lang = "zh-Hant";
document.title = `Kuwa · ${text.kernel}`;
for (const node of document.querySelectorAll("[data-text]")) node.textContent = text[node.dataset.text];
for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", text[node.dataset.label]);
showActions();
showSidebar();
on("drawn", showControls);
on("drawn", showSettings({ read: () => currentChat().settings, write: setSettings }));
startSession();
showExecutors({ historyId: () => currentChat().history_id, changed: showControls });
