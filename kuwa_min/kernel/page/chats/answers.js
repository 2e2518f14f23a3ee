/** The answers under way, stored in their chats while they come in, whichever chat is on the screen. */
import { text } from "../texts.js";
import { forgetSaved, saveOnPageHide } from "./store.js";

const KEEP_MS = 1000;    // between two saves of an answer that comes in

const answers = new Map();    // by turn, until its end is stored: {chat, message, save, timer}
const answersTo = id => [...answers].filter(([, { chat }]) => chat.id === id);

/** Return the chat of this id if an answer to it is under way: newer than what is stored. */
export const liveChat = id => answersTo(id).at(-1)?.[1].chat;

/** Return the element of a message that is an answer under way. */
export const liveElement = ({ id }) => [...answers].find(([, { message }]) => message.id === id)?.[0].view.message;

/** Store an answer from now on; save(chat, message) stores it once. */
export function keepAnswer(turn, chat, message, save) {
  const keep = () => { if (copyAnswer(turn)) save(chat, message); };
  answers.set(turn, { chat, message, save, timer: setInterval(keep, KEEP_MS) });
}

/** Copy what has come in to the message; return whether there was more. */
function copyAnswer(turn) {
  const { message } = answers.get(turn), { answer: said, thoughts, thinkingSeconds, notes, logs } = turn.view;
  const lengths = () => [message.text, message.thoughts, message.notes, message.logs].map(part => part?.length).join();
  const before = lengths();
  Object.assign(message, { text: said, thoughts, thinking_seconds: thinkingSeconds, notes: [...notes], logs: [...logs] });
  return before !== lengths();
}

/**
 * Store the result of a turn, as turn.js gives it. Return its chat, undefined if that was deleted.
 *
 * One that broke off is stored as unfinished: browsers end the requests of a page that is being left, Firefox long
 * before pagehide.
 */
export async function endAnswer(turn, { exitCode, thinkingSeconds, problem, ...found }) {
  if (!answers.has(turn)) return undefined;
  const { chat, message, save, timer } = answers.get(turn), done = problem !== text.broken;
  clearInterval(timer);
  Object.assign(message, found, { problem: done ? problem : "", done, exit_code: exitCode, thinking_seconds: thinkingSeconds });
  await save(chat, message);
  answers.delete(turn);
  return chat;
}

/** Store a chat's answers as stopped, with what has come, and forget them; return their turns. */
export async function dropAnswers(id) {
  const dropped = answersTo(id);
  for (const [turn, { chat, message, save, timer }] of dropped) {
    clearInterval(timer);
    copyAnswer(turn);
    answers.delete(turn);
    if (!message.done) Object.assign(message, { stopped: true, done: true });
    await save(chat, message);
  }
  return dropped.map(([turn]) => turn);
}

addEventListener("pagehide", () => {
  for (const [turn, { chat, message }] of answers) {
    copyAnswer(turn);
    saveOnPageHide(chat, message);
  }
});
addEventListener("pageshow", ({ persisted }) => {
  if (!persisted) return;
  for (const { chat, message, save } of answers.values()) {
    forgetSaved(message);
    save(chat, message);
  }
});
