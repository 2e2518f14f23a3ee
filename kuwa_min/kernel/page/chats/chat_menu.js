/** The menu of a stored chat: rename, export, delete. */
import { button, composing, element } from "../dom.js";
import { text } from "../texts.js";
import { exportJson, exportMarkdown } from "./files.js";
import { notify } from "./notice.js";
import { addChats, chatInMemory, openChat, removeChat, save, store } from "./session.js";

const TITLE_LENGTH = 200;

const menu = element("dialog", "chat_menu"), title = element("input");
let chosen = null;    // the chat whose menu is open

export const nameOf = chat => chat.title || text.untitled;

/** Add the menu to the page, closed. */
export function makeMenu() {
  const name = element("label", "", text.title), chooses = act => () => { menu.close(); act(chosen); };
  title.maxLength = TITLE_LENGTH;
  title.addEventListener("keydown", event => {
    if (event.key !== "Enter" || composing(event)) return;
    event.preventDefault();    // it would press the button that gets the focus back
    chooses(rename)();
  });
  name.append(title);
  menu.setAttribute("aria-label", text.chat_menu);
  menu.append(
    name, button(text.rename, chooses(rename), { className: "rename" }),
    button(text.export_json, chooses(exportJson), { className: "export_json" }),
    button(text.export_markdown, chooses(exportMarkdown), { className: "export_markdown" }),
    button(text.delete_chat, chooses(remove), { className: "delete" }), button(text.cancel, () => menu.close()),
  );
  document.body.append(menu);
}

/** Show the menu for a chat. */
export async function showMenu(id) {
  chosen = await store.load(id);
  if (!chosen) return;    // deleted in another tab meanwhile
  title.value = chosen.title;
  menu.showModal();
  title.select();
}

function rename(chat) {
  const renamed = chatInMemory(chat.id) || chat;
  renamed.title = title.value.trim() || renamed.title;
  save({ fields: ["title"] }, renamed);
}

async function remove({ id }) {
  const removed = await removeChat(id);
  if (removed) notify(text.deleted_chat(nameOf(removed)), {
    label: text.undo,
    act: () => addChats([removed]).then(() => openChat(id)),
  });
}
