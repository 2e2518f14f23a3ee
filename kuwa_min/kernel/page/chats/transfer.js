/**
 * The formats of exported chats: JSON, which can be imported, and Markdown, to read.
 *
 * An import is validated by the tables below: unknown keys are dropped, any other deviation rejects the whole file.
 * Every id is new, so an import overwrites nothing.
 */
import { randomId } from "../dom.js";
import { text } from "../texts.js";
import { pathTo, randomKey, repair } from "./conversation.js";

const FORMAT = "kuwa_chats", VERSION = 1;
const MAX_FILE = 128 << 20;     // bytes
const MAX_CHATS = 5000, MAX_MESSAGES = 5000, MAX_LIST = 1000, MAX_ATTACHMENTS = 20;
const MAX_TEXT = 4 << 20, MAX_DATA = 32 << 20, MAX_LINE = 1000;    // characters
const MAX_TIME = 8.64e15;       // the largest of a Date

/** A file that cannot be imported; the message is for the user. */
export class InvalidFile extends Error {}

const string = most => value => typeof value === "string" && value.length <= most;
const count = most => value => Number.isFinite(value) && value >= 0 && value <= most;
const boolean = value => typeof value === "boolean";
const oneOf = (...words) => value => words.includes(value);
const optional = check => value => value === undefined || value === null || check(value);
const isObject = value => typeof value === "object" && value !== null && !Array.isArray(value);
const list = (most, of) => ({ most, of });

const SETTINGS = {
  system: optional(string(MAX_TEXT)), temperature: optional(count(100)), max_tokens: optional(count(1e9)),
};
const ATTACHMENT = {
  name: string(MAX_LINE), type: string(MAX_LINE), data: optional(string(MAX_DATA)), text: optional(string(MAX_TEXT)),
};
const USAGE = { prompt_tokens: optional(Number.isFinite), completion_tokens: optional(Number.isFinite) };
const MESSAGE = {
  parent: optional(string(MAX_LINE)), role: oneOf("user", "assistant"), text: string(MAX_TEXT), created: count(MAX_TIME),
  attachments: list(MAX_ATTACHMENTS, ATTACHMENT), notes: list(MAX_LIST, string(MAX_TEXT)),
  logs: list(MAX_LIST, { level: string(MAX_TEXT), text: string(MAX_TEXT) }), usage: USAGE,
  access_code: optional(string(MAX_LINE)), exit_code: optional(Number.isFinite), problem: optional(string(MAX_TEXT)),
  thoughts: optional(string(MAX_TEXT)), thinking_seconds: optional(Number.isFinite),
  stopped: optional(boolean), refused: optional(boolean), done: optional(boolean),
  first: optional(Number.isFinite), seconds: optional(Number.isFinite),
};
const CHAT = {
  title: string(MAX_LINE), created: count(MAX_TIME), updated: count(MAX_TIME),
  access_code: optional(string(MAX_LINE)), settings: SETTINGS, leaf: optional(string(MAX_LINE)),
};

/** Return the text of a file that importChats() reads. */
export function exportChats(chats) {
  return JSON.stringify({ format: FORMAT, version: VERSION, exported: new Date().toISOString(), chats }, null, 1);
}

/** Return the chats of a file, with new ids. Raises InvalidFile. */
export async function importChats(file) {
  if (file.size > MAX_FILE) throw new InvalidFile(text.import_too_large(file.name, MAX_FILE >> 20));
  let whole;
  try { whole = JSON.parse(await file.text()); } catch { throw new InvalidFile(text.import_not_json(file.name)); }
  if (whole?.format !== FORMAT) throw new InvalidFile(text.import_foreign(file.name));
  if (whole.version !== VERSION) throw new InvalidFile(text.import_version(file.name, VERSION));
  try {
    if (!Array.isArray(whole.chats)) throw new Unexpected("chats");
    return validated(list(MAX_CHATS, isObject), whole.chats, "chats").map((chat, index) => chatFrom(chat, `chats[${index}]`));
  } catch (error) {
    if (error instanceof Unexpected) throw new InvalidFile(text.import_unexpected(file.name, error.message));
    throw error;
  }
}

class Unexpected extends Error {}    // its message is the place in the file

/** Return a value without unknown keys, validated by a check, a list or a table of checks. Raises Unexpected. */
function validated(check, value, place) {
  if (typeof check === "function") {
    if (!check(value)) throw new Unexpected(place);
    return value;
  }
  if (value === undefined || value === null) return undefined;    // lists and tables are optional
  if ("most" in check) {
    if (!Array.isArray(value) || value.length > check.most) throw new Unexpected(place);
    return value.map((one, index) => validated(check.of, one, `${place}[${index}]`));
  }
  if (!isObject(value)) throw new Unexpected(place);
  const part = Object.entries(check).map(([key, one]) => [key, validated(one, ownValue(value, key), `${place}.${key}`)]);
  return Object.fromEntries(part.filter(([, one]) => one !== undefined && one !== null));
}

const ownValue = (value, key) => Object.hasOwn(value, key) ? value[key] : undefined;

function chatFrom(value, place) {
  const { leaf, ...chat } = validated(CHAT, value, place), within = `${place}.messages`;
  const entries = Object.entries(value.messages ?? {});
  if (!isObject(value.messages) || entries.length > MAX_MESSAGES) throw new Unexpected(within);
  const messages = new Map(entries.map(([id, one], index) => [id, messageFrom(one, `${within}[${index}]`)]));
  checkTree(messages, within);
  const ids = new Map([...messages.keys()].map(id => [id, randomKey()]));
  const made = [...messages].map(([id, one]) => ({ ...one, id: ids.get(id), parent: ids.get(one.parent) ?? null }));
  return repair({
    access_code: "", settings: {}, ...chat, id: randomKey(), history_id: randomId(), leaf: ids.get(leaf) ?? null,
    messages: Object.fromEntries(made.map(one => [one.id, one])),
  });
}

function messageFrom(value, place) {
  if (!isObject(value)) throw new Unexpected(place);
  return validated(MESSAGE, value, place);
}

/** Raise Unexpected unless every chain of parents ends at a root. */
function checkTree(messages, place) {
  const rooted = new Set([undefined]);
  let index = 0;
  for (const id of messages.keys()) {
    const chain = new Set();
    for (let at = id; !rooted.has(at); at = messages.get(at).parent) {
      if (chain.has(at) || !messages.has(at)) throw new Unexpected(`${place}[${index}].parent`);
      chain.add(at);
    }
    for (const one of chain) rooted.add(one);
    index++;
  }
}

/** Return the branch of a chat that is shown as Markdown. */
export function toMarkdown(chat) {
  const parts = [`# ${chat.title || text.untitled}`];
  for (const message of pathTo(chat)) {
    const name = message.role === "user" ? text.you : text.assistant;
    parts.push(`## ${message.access_code ? `${name} (${message.access_code})` : name}`);
    for (const { name } of message.attachments || []) parts.push(`*${text.attachment}: ${name}*`);
    if (message.text) parts.push(message.text.trim());
    for (const note of message.notes || []) parts.push(quoted(`**${text.note}:** ${note}`));
    if (message.problem) parts.push(quoted(`**${text.error}:** ${message.problem}`));
  }
  return `${parts.join("\n\n")}\n`;
}

const quoted = lines => lines.split("\n").map(line => `> ${line}`).join("\n");
