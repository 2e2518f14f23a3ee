/**
 * The store of chats: IndexedDB, or memory where the browser forbids that.
 *
 * A record of "chats" is a chat without its messages, one of "messages" is a message. A save reads the chat's record
 * and writes back only the fields and messages that changed, in one transaction, so tabs that write to the same chat
 * add to each other's work. A chat without a record (new, or deleted in another tab while this one goes on with it) is
 * written as a whole. One that could not be written stays in memory, and is written as a whole when a save succeeds.
 */
import { repair } from "./conversation.js";

const NAME = "kuwa_chats", VERSION = 1;

const LEFT_PREFIX = `${NAME} `;    // of keys in localStorage, see saveOnPageHide

/**
 * Save one message from a pagehide handler. Browsers drop the transactions of a page that is being left, even committed
 * ones; localStorage is written before the call returns. The next page of any tab moves the message to IndexedDB.
 */
export function saveOnPageHide(chat, message) {
  try {
    localStorage[LEFT_PREFIX + message.id] = JSON.stringify({ ...message, chat: chat.id });
  } catch { /* full or forbidden: the last second of the answer is lost */ }
}

/** Forget a message of saveOnPageHide: the browser brought the page back from its cache, with a newer one in memory. */
export function forgetSaved(message) {
  try {
    localStorage.removeItem(LEFT_PREFIX + message.id);
  } catch { /* forbidden: nothing was saved */ }
}

/** Return the message of an entry of saveOnPageHide, undefined if it has none. */
function savedMessage(key) {
  try {
    const found = JSON.parse(localStorage[key]);
    return [found.id, found.chat, found.text].every(value => typeof value === "string") ? found : undefined;
  } catch {
    return undefined;    // damaged, or removed by another tab
  }
}

const finished = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
const committed = transaction => new Promise((resolve, reject) => {
  transaction.oncomplete = resolve;
  transaction.onabort = () => reject(transaction.error || new Error("The browser ended a transaction."));
});
const messagesOf = id => IDBKeyRange.bound([id], [id, []]);    // an array sorts behind every string

function open() {
  const request = indexedDB.open(NAME, VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("chats", { keyPath: "id" });
    request.result.createObjectStore("messages", { keyPath: ["chat", "id"] });
  };
  return finished(request);
}

/**
 * Return the store. It calls `changed(id)` when another tab saved or deleted a chat, `failed(error)` when the browser
 * begins to refuse, and `failed(null)` when it takes chats again.
 */
export function openStore({ changed, failed }) {
  const unsaved = new Map();    // the chats that are in memory only, by id
  const channel = new BroadcastChannel(NAME);
  let opening = null, refused = false;

  channel.onmessage = ({ data }) => changed(data);

  async function connect() {
    const found = await open();
    // A page of a newer version may upgrade the database; this one then reopens it, or fails to.
    found.onversionchange = () => { found.close(); forget(); };
    found.onclose = forget;
    return found;
  }
  function forget() { opening = null; }
  async function begin(mode) {
    opening ||= connect().catch(error => { forget(); throw error; });
    return (await opening).transaction(["chats", "messages"], mode, { durability: "relaxed" });
  }

  function report(error) {
    if (Boolean(error) !== refused) failed(error);
    refused = Boolean(error);
  }
  /** Return the result of `read`, or `otherwise` if the database fails. */
  async function reading(read, otherwise) {
    try {
      return await read(await begin("readonly"));
    } catch (error) {
      report(error);
      return otherwise;
    }
  }
  async function writing(write) {
    const transaction = await begin("readwrite"), done = committed(transaction);
    done.catch(() => {});    // awaited below, unless write() throws
    await write(transaction.objectStore("chats"), transaction.objectStore("messages"));
    transaction.commit();
    await done;
  }

  /** Write these fields of a chat's record and these of its messages; `removed` are ids of messages. */
  async function save(chat, { fields = [], messages = [], removed = [] }) {
    try {
      await writing(async (chats, table) => {
        const stored = unsaved.has(chat.id) ? undefined : await finished(chats.get(chat.id));
        const { messages: all, ...record } = chat;
        chats.put(stored ? { ...stored, ...Object.fromEntries(fields.map(name => [name, chat[name]])) } : record);
        for (const id of removed) table.delete([chat.id, id]);
        for (const message of stored ? messages : Object.values(all)) table.put({ ...message, chat: chat.id });
      });
      unsaved.delete(chat.id);
      report(null);
      channel.postMessage(chat.id);
    } catch (error) {
      unsaved.set(chat.id, chat);
      report(error);
    }
  }

  /** Move the messages of saveOnPageHide to IndexedDB. */
  async function recover() {
    const left = Object.keys(localStorage).filter(key => key.startsWith(LEFT_PREFIX));
    if (!left.length) return;
    await writing(async (chats, table) => {
      for (const message of left.map(savedMessage).filter(Boolean))
        if (await finished(chats.get(message.chat))) table.put(message);
    });
    for (const key of left) localStorage.removeItem(key);
  }

  async function remove(id) {
    unsaved.delete(id);
    try {
      await writing(async (chats, table) => {
        chats.delete(id);
        table.delete(messagesOf(id));
      });
      channel.postMessage(id);
    } catch (error) {
      report(error);
    }
  }

  /** Return the records of all chats, the latest first. */
  async function list() {
    const stored = await reading(from => finished(from.objectStore("chats").getAll()), []);
    const all = [...stored.filter(one => !unsaved.has(one.id)), ...unsaved.values()];
    return all.sort((a, b) => b.updated - a.updated);
  }

  /** Return a chat with its messages, or undefined. */
  async function load(id) {
    if (unsaved.has(id)) return unsaved.get(id);
    return reading(async from => {
      const found = finished(from.objectStore("messages").getAll(messagesOf(id)));
      const record = await finished(from.objectStore("chats").get(id));
      const messages = (await found).map(({ chat, ...message }) => [message.id, message]);
      return record && repair({ ...record, messages: Object.fromEntries(messages) });
    });
  }

  recover().catch(report);    // its transaction is the first, so every read sees it
  return { save, remove, list, load };
}
