/**
 * The chat on the screen, its turns, and their storage.
 *
 * The address has the chat's id behind `#`, so a reload and the browser's Back show the same chat. An answer goes on
 * while another chat is on the screen. What another tab writes to a chat is shown when no answer to it is under way here.
 */
import { $ } from "../dom.js";
import { drawAnswer, drawQuestion } from "../answer/kept_messages.js";
import { clearTranscript, putBack, stickToEnd } from "../answer/transcript.js";
import { sentText } from "../attachments/sent_text.js";
import { focusMessage, hasDraft, setDraft } from "../composer.js";
import { chooseAccessCode, refresh } from "../executors.js";
import { userId } from "../kernel.js";
import { text } from "../texts.js";
import { answer, hooks, mayAsk, stop, underWay } from "../turn.js";
import { dropAnswers, endAnswer, keepAnswer, liveChat, liveElement } from "./answers.js";
import { appendMessage, chooseBranch, createChat, historyTo, pathTo, removeMessages, restoreMessages } from "./conversation.js";
import { notify } from "./notice.js";
import { redraw } from "./redraw.js";
import { openStore } from "./store.js";

const listeners = { drawn: [], stored: [], failed: [] };
const emit = (event, ...values) => { for (const listener of listeners[event]) listener(...values); };
/**
 * Add a listener: "drawn" (messages, or a turn began or ended), "stored" (chats), "failed" (storage; the error, null once it
 * works again).
 */
export const on = (event, listener) => listeners[event].push(listener);

export const store = openStore({
  changed(id) { emit("stored"); showStored(id); },
  failed(error) { emit("failed", error); },
});
let chat = createChat();
let shown = [];              // {message, element} of the path on the screen
let open = 0;                // counts requests to show a chat: the last one wins

export const currentChat = () => chat;
/** Return the chat of this id if it is on the screen or being answered: what is to be changed, beside the store. */
export const chatInMemory = id => id === chat.id ? chat : liveChat(id);
export const shownMessages = () => shown;

/** Write fields of the chat on the screen, some of its messages, or the removal of messages. */
export async function save(changes, of = chat) {
  await store.save(of, changes);
  emit("stored");
}

const saveMessage = (of, message) => save({ messages: [message] }, of);

// ---- which chat

function show(next) {
  chat = next;
  shown = [];
  clearTranscript();
  $("me").textContent = text.me(userId, chat.history_id);
  chooseAccessCode(chat.access_code);
  draw();
  refresh();
}

function newChat() {
  open++;
  if (location.hash) history.pushState(null, "", location.pathname);
  show(createChat());
  focusMessage();
}

/** Show a kept chat, and one of its messages if an id is given. */
export async function openChat(id, messageId = null) {
  if (id !== chat.id || location.hash !== `#${id}`) history.pushState(null, "", `#${id}`);
  await showFromAddress();
  if (!chat.messages[messageId]) return;
  const isShown = pathTo(chat).some(one => one.id === messageId);
  if (!isShown && underWay()) return;    // its answer stays on the screen
  if (!isShown) showBranch(messageId);
  shown.find(one => one.message.id === messageId).element.scrollIntoView({ block: "center" });
}

async function showFromAddress() {
  const id = location.hash.slice(1), mine = ++open;
  if (id && id === chat.id) return;
  const kept = id && (liveChat(id) || await store.load(id));
  if (mine !== open) return;
  if (id && !kept) {
    history.replaceState(null, "", location.pathname);
    notify(text.chat_gone);
  }
  show(kept || createChat());
}

/** Bring the chat on the screen up to date with the store, if it is this one. */
async function showStored(id) {
  const isFree = () => id === chat.id && !underWay() && !document.querySelector(".editing");
  const stored = isFree() && await store.load(id);
  if (!stored || !isFree()) return;    // a deleted chat stays on the screen
  const { leaf } = chat, follows = pathTo(stored).some(one => one.id === leaf);
  if (stored.messages[leaf] && !follows) stored.leaf = leaf;    // another branch was chosen there
  chat = stored;
  draw();
}

/** Delete a chat, and return what addChats() would put back. */
export async function removeChat(id) {
  for (const turn of await dropAnswers(id)) stop(turn);
  if (id === chat.id) newChat();
  const removed = await store.load(id);
  await store.remove(id);
  emit("stored");
  return removed;
}

/** Store new chats. */
export async function addChats(chats) {
  await Promise.all(chats.map(one => store.save(one, {})));
  emit("stored");
}

// ---- what is on the screen

function draw() {
  redraw($("log"), drawPath, $("message"));
}

function drawPath() {
  const path = pathTo(chat);
  let same = 0;
  while (same < shown.length && same < path.length && isSame(shown[same].message, path[same])) {
    shown[same].message = path[same];
    same++;
  }
  for (const { element } of shown.splice(same)) element.remove();
  for (const message of path.slice(same)) {
    const live = liveElement(message);
    const element = live ? putBack(live) : message.role === "user" ? drawQuestion(message) : drawAnswer(message);
    shown.push({ message, element });
  }
  $("welcome").hidden = path.length > 0;
  emit("drawn");
}

const isSame = (one, other) => one === other || JSON.stringify(one) === JSON.stringify(other);

/** Show the branch that a message begins. */
export function showBranch(id) {
  chooseBranch(chat, id);
  draw();
  if (shown.length) save({ fields: ["leaf"] });
}

/** Set the settings of the chat on the screen; a chat is stored with its first message. */
export function setSettings(settings) {
  chat.settings = settings;
  if (shown.length) save({ fields: ["settings"] });
}

export function deleteMessages(id) {
  const of = chat, { leaf } = of, removed = removeMessages(of, id);
  draw();
  save({ fields: ["leaf"], removed: removed.map(one => one.id) });
  notify(text.deleted_messages(removed.length), {
    label: text.undo,
    act() {
      const now = chatInMemory(of.id), back = now && underWay(of.history_id) ? now.leaf : leaf;    // an answer stays on its branch
      restoreMessages(of, removed, back);
      if (now && now !== of) restoreMessages(now, removed, back);
      if (now === chat) draw();
      save({ fields: ["leaf"], messages: removed }, of);
    },
  });
}

// ---- turns

/** Answer the question of a message once more, as a sibling of its other answers. */
export function retry(id) {
  const message = chat.messages[id], question = message.role === "user" ? message : chat.messages[message.parent];
  if (!question || !mayAsk()) return;
  chat.leaf = question.id;
  draw();
  focusMessage();
  answer(question.text, shown.at(-1).element, question.attachments);
}

/** Send an edited question, as a sibling of the first; return false if the chat cannot be asked now. */
export function ask(id, question) {
  const { parent, attachments } = chat.messages[id];
  if (!mayAsk()) return false;
  appendMessage(chat, parent, "user", { text: question, attachments });
  draw();
  focusMessage();
  answer(question, shown.at(-1).element, attachments);
  return true;
}

const wireMessage = ({ role, text: said, attachments }) =>
  ({ isbot: role === "assistant", msg: role === "user" ? sentText(said, attachments) : said });

function begun(turn) {
  open++;
  let question = shown.find(one => one.element === turn.asked)?.message;
  turn.isTyped = !question;
  if (!question) {
    question = appendMessage(chat, chat.leaf, "user", { text: turn.question, attachments: turn.attachments });
    shown.push({ message: question, element: turn.asked });
  }
  const message = appendMessage(chat, question.id, "assistant", { access_code: turn.ids.name, done: false });
  shown.push({ message, element: turn.view.message });
  chat.access_code = turn.ids.name;
  keepAnswer(turn, chat, message, saveMessage);
  save({ fields: ["leaf", "updated", "title", "access_code"], messages: [question, message] });
  if (location.hash !== `#${chat.id}`) history.replaceState(null, "", `#${chat.id}`);
  emit("drawn");
}

async function ended(turn, result) {
  const isHere = turn.ids.history_id === chat.history_id, unanswered = !result.text && !result.notes.length;
  if (isHere && unanswered && turn.isTyped && !hasDraft()) setDraft(turn.question, turn.attachments);    // offer it again
  const ending = endAnswer(turn, result);
  refresh();
  emit("drawn");
  const answered = await ending;
  if (answered) showStored(answered.id);    // what other tabs wrote meanwhile
  else emit("stored");    // a deletion that was undone lists the chat as being answered
}

/** Show the chat of the address, and connect turns with the chat on the screen. */
export function startSession() {
  Object.assign(hooks, {
    historyId: () => chat.history_id, history: () => historyTo(chat).map(wireMessage), begun, ended,
  });
  addEventListener("popstate", showFromAddress);
  addEventListener("pageshow", ({ persisted }) => { if (persisted) emit("stored"), showStored(chat.id); });    // as the browser kept it
  $("new").addEventListener("click", newChat);
  stickToEnd();
  show(chat);
  focusMessage();
  return showFromAddress();
}
