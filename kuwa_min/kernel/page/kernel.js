/** Requests to the Kernel. */
import { randomId } from "./dom.js";
import { text } from "./texts.js";

const RETRY_MS = 2000;    // between two schedule requests while every slot is taken
const LOADING_MS = 500;   // and while the model loads

/** An error of the Kernel or an executor; its message is for the user. */
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

/** Return the status of executors: [{origin, access_codes, state, waiting, progress, ...}]; origin "": not registered yet. */
export const readStatuses = async () => (await fetch("page/status")).json();

/** Return the status of an executor of this name that is loading, or undefined. */
const loadingStatus = async name =>
  (await readStatuses()).find(status => !status.origin && status.access_codes.includes(name));

/** Take a slot: true when the Kernel reserved one, false when the user stopped waiting. */
export async function reserve(turn) {
  for (;;) {
    const state = (await (await post("worker/schedule", turn.ids, turn.hangUp.signal)).text()).trim();
    // Also after a stop: only a question releases the slot, so it is sent, and aborted at once.
    if (state === "READY") return true;
    if (turn.stopped) return false;
    const status = state === "NOMACHINE" && await loadingStatus(turn.ids.name);
    if (status) {
      turn.view.say(text.sent_when_loaded);
      turn.view.loading(status.progress);
    } else if (state === "BUSY") {
      turn.view.say(text.waiting);
    } else {
      throw new Problem(state === "NOMACHINE" ? text.no_machine(turn.ids.name) : state);
    }
    await new Promise(wake => { turn.wake = wake; setTimeout(wake, status ? LOADING_MS : RETRY_MS); });
    if (turn.stopped) return false;
  }
}

const abortFields = ({ ids }) => new URLSearchParams({ history_id: `[${ids.history_id}]`, user_id: ids.user_id });
export const abort = turn => post("chat/abort", abortFields(turn)).catch(() => turn.hangUp.abort());
/** Abort from a pagehide handler, in which fetch() may be dropped. */
export const abortOnPageHide = turn => navigator.sendBeacon(url("chat/abort"), abortFields(turn));
