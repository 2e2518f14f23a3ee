/**
 * A chat as a tree of messages. No DOM, no storage.
 *
 * A chat is `{id, history_id, title, created, updated, access_code, settings, messages, leaf}`, `messages` an object
 * of `{id, parent, role, text, created, ...}` by id. The path from a root (`parent: null`) down to `leaf` is what is
 * shown and sent. Edit and retry only add a sibling and move the leaf there.
 * Times are milliseconds since 1970.
 */
import { randomId } from "../dom.js";

const TITLE_LENGTH = 60;

/** Return a key for a chat or a message; crypto.randomUUID is missing where the page came over plain HTTP. */
export const randomKey = () =>
  [...crypto.getRandomValues(new Uint8Array(12))].map(byte => byte.toString(16).padStart(2, "0")).join("");

export function createChat() {
  const now = Date.now();
  return {
    id: randomKey(), history_id: randomId(), title: "", created: now, updated: now,
    access_code: "", settings: {}, messages: {}, leaf: null,
  };
}

/** Add a message below `parent` (an id, or null for a root) and make it the leaf. */
export function appendMessage(chat, parent, role, fields = {}) {
  // Messages have an order, even in one millisecond.
  const before = [...childrenOf(chat, parent), chat.messages[parent]].map(one => one ? one.created + 1 : 0);
  const message = { text: "", ...fields, id: randomKey(), parent, role, created: Math.max(Date.now(), ...before) };
  chat.messages[message.id] = message;
  chat.leaf = message.id;
  chat.updated = Date.now();
  chat.title ||= titleFrom(message.text || message.attachments?.[0]?.name || "");
  return message;
}

/** Return the first line of a text, cut to a title's length. */
function titleFrom(text) {
  const line = [...text.trim().split("\n", 1)[0].trim()];
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH).join("").trimEnd()}…` : line.join("");
}

/** Return the messages below `parent` in the order of their creation. */
export function childrenOf(chat, parent) {
  return Object.values(chat.messages).filter(one => one.parent === parent).sort((a, b) => a.created - b.created);
}

/** Return the messages from a root down to `id`. */
export function pathTo(chat, id = chat.leaf) {
  const path = [];
  for (let message = chat.messages[id]; message; message = chat.messages[message.parent]) path.push(message);
  return path.reverse();
}

const INCOMPLETE = 1;    // the highest exit code of an answer that did not fail

/** Tell whether an answer can be sent: it has text, and did not fail. */
export const isAnswered = answer => Boolean(answer?.text.trim()) && !(answer.exit_code > INCOMPLETE);

/** Return the history up to `id`: the path without empty and failed answers, and without their questions. */
export function historyTo(chat, id = chat.leaf) {
  const path = pathTo(chat, id);
  return path.filter((message, index) => isAnswered(message.role === "user" ? path[index + 1] : message));
}

/** Move the leaf to the newest message at or below `id`. */
export function chooseBranch(chat, id) {
  chat.leaf = id;
  for (let below; (below = childrenOf(chat, chat.leaf).at(-1));) chat.leaf = below.id;
}

/** Remove a message and all below it, and return them; the leaf moves to a sibling's branch, or to the parent. */
export function removeMessages(chat, id) {
  const { parent } = chat.messages[id], siblings = childrenOf(chat, parent);
  const place = siblings.findIndex(one => one.id === id), next = siblings[place - 1] || siblings[place + 1];
  const removed = [chat.messages[id]];
  for (const message of removed) removed.push(...childrenOf(chat, message.id));
  for (const message of removed) delete chat.messages[message.id];
  if (!chat.messages[chat.leaf]) next ? chooseBranch(chat, next.id) : chat.leaf = parent;
  return removed;
}

/** Put removed messages back; the leaf is what it was before. */
export function restoreMessages(chat, removed, leaf) {
  for (const message of removed) chat.messages[message.id] = message;
  chat.leaf = leaf;
}

/** Make roots of messages whose parent another tab removed, and the newest message the leaf if that is gone. */
export function repair(chat) {
  const messages = Object.values(chat.messages);
  for (const message of messages) if (!chat.messages[message.parent]) message.parent = null;
  if (!chat.messages[chat.leaf]) chat.leaf = messages.sort((a, b) => a.created - b.created).at(-1)?.id ?? null;
  return chat;
}
