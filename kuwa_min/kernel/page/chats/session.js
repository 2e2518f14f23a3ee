/**
 * The chat on the screen, its turns, and their storage.
 *
 * The address has the chat's id behind `#`, so a reload and the browser's Back show the same chat. An answer is
 * stored while it comes in; what another tab writes to the chat is shown when no answer is under way here.
 */
import { $ } from "../dom.js";
import { drawAnswer, drawQuestion } from "../answer/kept_messages.js";
import { clearTranscript, stickToEnd } from "../answer/transcript.js";
import { sentText } from "../attachments/sent_text.js";
import { focusMessage, hasDraft, setDraft } from "../composer.js";
import { accessCode, chooseAccessCode, refresh } from "../executors.js";
import { userId } from "../kernel.js";
import { text } from "../texts.js";
import { answer, leave, hooks, underWay } from "../turn.js";
import { appendMessage, chooseBranch, createChat, historyTo, pathTo, removeMessages, restoreMessages } from "./conversation.js";
import { notify } from "./notice.js";
import { redraw } from "./redraw.js";
import { openStore, saveOnPageHide } from "./store.js";

const KEEP_MS = 1000;    // between two saves of an answer that comes in

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
const turns = new Map();     // by turn, until its end is stored: {chat, message, timer}

export const currentChat = () => chat;
export const shownMessages = () => shown;

/** Write fields of the chat on the screen, some of its messages, or the removal of messages. */
export async function save(changes, of = chat) {
  await store.save(of, changes);
  emit("stored");
}

// ---- which chat

function show(next) {
  leave();
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
  const kept = id && await store.load(id);
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
  for (const [turn, { chat: of, message, timer }] of turns) {
    if (of.id !== id) continue;
    clearInterval(timer);
    copyAnswer(turn);
    turns.delete(turn);    // what still comes in is kept nowhere
    if (!message.done) Object.assign(message, { stopped: true, done: true });
    await store.save(of, { messages: [message] });
  }
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
    const element = message.role === "user" ? drawQuestion(message) : drawAnswer(message);
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
      const isHere = of.id === chat.id, back = isHere && underWay() ? chat.leaf : leaf;    // an answer stays on the screen
      restoreMessages(of, removed, back);
      if (isHere) {
        if (of !== chat) restoreMessages(chat, removed, back);
        draw();
      }
      save({ fields: ["leaf"], messages: removed }, of);
    },
  });
}

// ---- turns

/** Answer the question of a message once more, as a sibling of its other answers. */
export function retry(id) {
  const message = chat.messages[id], question = message.role === "user" ? message : chat.messages[message.parent];
  if (underWay() || !question || !accessCode()) return;
  chat.leaf = question.id;
  draw();
  focusMessage();
  answer(question.text, shown.at(-1).element, question.attachments);
}

/** Ask a question in other words, as a sibling of the first. */
export function ask(id, question) {
  const { parent, attachments } = chat.messages[id];
  if (underWay() || !accessCode()) return;
  appendMessage(chat, parent, "user", { text: question, attachments });
  draw();
  focusMessage();
  answer(question, shown.at(-1).element, attachments);
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
  turns.set(turn, { chat, message, timer: setInterval(keep, KEEP_MS, turn) });
  save({ fields: ["leaf", "updated", "title", "access_code"], messages: [question, message] });
  if (location.hash !== `#${chat.id}`) history.replaceState(null, "", `#${chat.id}`);
  emit("drawn");
}

/** Copy what has come in to the message; return whether there was more. */
function copyAnswer(turn) {
  const { message } = turns.get(turn), { answer: said, thoughts, thinkingSeconds, notes, logs } = turn.view;
  const lengths = () => [message.text, message.thoughts, message.notes, message.logs].map(part => part?.length).join();
  const before = lengths();
  Object.assign(message, { text: said, thoughts, thinking_seconds: thinkingSeconds, notes: [...notes], logs: [...logs] });
  return before !== lengths();
}

function keep(turn) {
  const { chat: of, message } = turns.get(turn);
  if (copyAnswer(turn)) save({ messages: [message] }, of);
}

function ended(turn, result) {
  const { isCurrent, exitCode, thinkingSeconds, ...found } = result;
  const unanswered = !found.text && !found.notes.length;
  if (isCurrent && unanswered && turn.isTyped && !hasDraft()) setDraft(turn.question, turn.attachments);    // offer it again
  if (isCurrent) refresh();
  if (turns.has(turn)) {
    const { chat: of, message, timer } = turns.get(turn);
    clearInterval(timer);
    Object.assign(message, found, { exit_code: exitCode, thinking_seconds: thinkingSeconds, done: true });
    save({ messages: [message] }, of).then(() => {
      turns.delete(turn);
      showStored(of.id);    // what other tabs wrote meanwhile
    });
  }
  emit("drawn");
}

// Browsers end requests before pagehide: an answer that has just broken off may have been cut by that.
addEventListener("pagehide", () => {
  for (const [turn, { chat: of, message }] of turns) {
    copyAnswer(turn);
    const { problem, ...kept } = message;
    saveOnPageHide(of, problem === text.broken ? { ...kept, done: false } : message);
  }
});

/** Show the chat of the address, and connect turns with the chat on the screen. */
export function startSession() {
  Object.assign(hooks, {
    historyId: () => chat.history_id, history: () => historyTo(chat).map(wireMessage), begun, ended,
  });
  addEventListener("popstate", showFromAddress);
  $("new").addEventListener("click", newChat);
  stickToEnd();
  show(chat);
  focusMessage();
  return showFromAddress();
}
