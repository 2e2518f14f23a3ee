/** Export and import of chats: downloads and the file chooser. */
import { button, element } from "../dom.js";
import { text } from "../texts.js";
import { notify } from "./notice.js";
import { addChats, store } from "./session.js";
import { InvalidFile, exportChats, importChats, toMarkdown } from "./transfer.js";

const JSON_TYPE = "application/json", MARKDOWN_TYPE = "text/markdown";
const ALL = "kuwa-chats.json", TITLE_LENGTH = 50;
const REVOKE_MS = 60000;    // a browser may first ask where to save the file

export const exportJson = chat => download(fileName(chat, "json"), JSON_TYPE, exportChats([chat]));
export const exportMarkdown = chat => download(fileName(chat, "md"), MARKDOWN_TYPE, toMarkdown(chat));

export async function exportAll() {
  const chats = [];
  for (const { id } of await store.list()) chats.push(await store.load(id));
  download(ALL, JSON_TYPE, exportChats(chats.filter(Boolean)));    // one may be deleted meanwhile
}

/** Return a button that asks for a file and imports it. */
export function importButton() {
  const input = element("input");
  input.type = "file";
  input.accept = ".json";
  input.hidden = true;
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = "";    // the same file may be chosen again
    if (file) importFile(file);
  });
  const made = button(text.import, () => input.click(), { className: "import" });
  made.append(input);
  return made;
}

async function importFile(file) {
  try {
    const chats = await importChats(file);
    await addChats(chats);
    notify(text.imported(chats.length));
  } catch (error) {
    if (!(error instanceof InvalidFile)) throw error;
    notify(error.message);
  }
}

function download(name, type, content) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), REVOKE_MS);
}

/** Return a file name for a chat, valid on every system. */
function fileName({ title }, suffix) {
  const clean = [...title.replace(/[\s\p{C}\\/:*?"<>|]+/gu, " ").trim()].slice(0, TITLE_LENGTH).join("").replace(/^[. ]+|[. ]+$/g, "");
  return `${clean || "chat"}.${suffix}`;
}
