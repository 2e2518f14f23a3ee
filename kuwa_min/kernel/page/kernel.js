/** Requests to the Kernel. */
import { randomId } from "./dom.js";
import { text } from "./texts.js";

const RETRY_MS = 2000;    // between two schedule requests while every slot is taken

/** What the Kernel or an executor said, in words for the reader. */
export class Problem extends Error {}

export const userId = rememberedUserId();

function rememberedUserId() {
  try {
    return Number(sessionStorage.user_id ||= randomId());
  } catch {
    return randomId();    // storage is forbidden here: the id lives as long as the page
  }
}

export const url = path => `${document.documentElement.dataset.version}/${path}`;

async function request(path, init) {
  const response = await fetch(url(path), { method: "POST", ...init });
  if (response.ok) return response;
  const body = (await response.text()).trim() || text.failed(response.status);
  let message;
  try { message = JSON.parse(body).msg || JSON.parse(body).message; } catch { /* plain text */ }
  throw new Problem(message || body);
}

export const post = (path, fields, signal, headers) =>
  request(path, { body: new URLSearchParams(fields), signal, headers });
export const postJson = (path, fields) =>
  request(path, { body: JSON.stringify(fields), headers: { "Content-Type": "application/json" } });
export const read = async path => (await fetch(url(path))).json();

/** Take a slot: true when the Kernel reserved one, false when the user stopped waiting. */
export async function reserve(turn) {
  for (;;) {
    const word = (await (await post("worker/schedule", turn.ids, turn.hangUp.signal)).text()).trim();
    // Also after a stop: only a question ends a reservation, so it is sent, and aborted at once.
    if (word === "READY") return true;
    if (turn.stopped) return false;
    if (word !== "BUSY") throw new Problem(word === "NOMACHINE" ? text.no_machine(turn.ids.name) : word);
    turn.view.say(text.waiting);
    await new Promise(wake => { turn.wake = wake; setTimeout(wake, RETRY_MS); });
    if (turn.stopped) return false;
  }
}

const abortFields = ({ ids }) => new URLSearchParams({ history_id: `[${ids.history_id}]`, user_id: ids.user_id });
export const abort = turn => post("chat/abort", abortFields(turn)).catch(() => turn.hangUp.abort());
/** Abort while the page is being left, when no request is awaited any more. */
export const abortAtLast = turn => navigator.sendBeacon(url("chat/abort"), abortFields(turn));
