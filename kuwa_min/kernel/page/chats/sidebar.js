/** The sidebar: the list of stored chats, and its search. */
import { $, button, element } from "../dom.js";
import { language, text } from "../texts.js";
import { underWay } from "../turn.js";
import { makeMenu, nameOf, showMenu } from "./chat_menu.js";
import { closeDrawer, makeDrawer } from "./drawer.js";
import { exportAll, importButton } from "./files.js";
import { redraw } from "./redraw.js";
import { search } from "./search.js";
import { currentChat, on, openChat, store } from "./session.js";

const LISTED = 200;       // chats that are listed before "more" is pressed
const SEARCH_MS = 150;    // after the last key

const nav = $("chats"), list = element("ul"), found = element("p", "found"), problem = element("p", "problem");
const box = element("input");
let listed = LISTED, drawn = "", query = "";

/** Fill the sidebar. */
export function showSidebar() {
  box.type = "search";
  box.placeholder = text.search_chats;
  box.setAttribute("aria-label", text.search_chats);
  box.addEventListener("keydown", event => {
    if (event.key === "Escape" && box.value) event.stopPropagation();    // it empties the box; the page's stops answers
  });
  let timer = 0;
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { query = box.value.trim(); drawn = ""; refreshList(); }, SEARCH_MS);
  });
  found.setAttribute("role", "status");
  problem.setAttribute("role", "status");
  const foot = element("div", "foot");
  foot.append(button(text.export_all, exportAll), importButton());
  nav.setAttribute("aria-label", text.chats);
  nav.append(box, found, list, problem, foot);
  nav.hidden = false;
  makeMenu();
  makeDrawer(nav, box);
  on("stored", refreshList);
  on("drawn", showCurrent);
  on("failed", error => { problem.textContent = error ? reasonOf(error) : ""; });
  refreshList();
}

const reasonOf = ({ name }) => name === "QuotaExceededError" ? text.storage_full : text.storage_refused(name);

// ---- the list

let refreshing = null, again = false;

/** Read the chats and draw the list; calls that come meanwhile make one more. */
async function refreshList() {
  if (refreshing) return again = true;
  refreshing = query ? drawFound() : drawAll();
  await refreshing;
  refreshing = null;
  if (again) again = false, refreshList();
}

/** Return what an item shows of its chat. */
const itemState = ({ id, title, updated, history_id }) => [id, title, updated, Boolean(underWay(history_id))];

async function drawAll() {
  const chats = await store.list(), shown = chats.slice(0, listed);
  const state = JSON.stringify([listed, chats.length, shown.map(itemState)]);
  if (state === drawn || query) return;
  drawn = state;
  found.textContent = chats.length ? "" : text.no_chats;
  const more = button(text.more_chats, () => { listed += LISTED; refreshList(); });
  more.dataset.key = "more";
  drawItems([...shown.map(chat => item(chat)), ...chats.length > listed ? [more] : []]);
}

async function drawFound() {
  const of = query, all = [];
  for await (const one of search(store, of)) {
    if (of !== query) return;
    all.push(one);
  }
  const state = JSON.stringify([of, all.map(({ chat, ...where }) => [itemState(chat), where])]);
  if (state === drawn || of !== query) return;
  drawn = state;
  found.textContent = text.chats_found(all.length);
  drawItems(all.map(({ chat, message, snippet }) => item(chat, message, snippet)));
}

function drawItems(items) {
  redraw(list, () => list.replaceChildren(...items), box);
  showCurrent();
}

function item(chat, message = null, snippet = null) {
  const made = element("li"), open = button("", () => { openChat(chat.id, message); closeDrawer(); }, { className: "open" });
  open.dataset.key = chat.id;
  const note = underWay(chat.history_id) ? element("small", "answering", text.streaming) : element("small", "", timeOf(chat.updated));
  open.append(element("span", "title", nameOf(chat)), note);
  if (snippet) {
    const [before, match, after] = snippet, line = element("span", "snippet", before);
    line.append(element("mark", "", match), after);
    open.append(line);
  }
  const more = button("⋯", () => showMenu(chat.id), { className: "more", label: text.chat_actions(nameOf(chat)) });
  more.dataset.key = `${chat.id} more`;
  made.append(open, more);
  return made;
}

function timeOf(updated) {
  const date = new Date(updated), isToday = date.toDateString() === new Date().toDateString();
  const form = isToday ? { hour: "2-digit", minute: "2-digit" } : { year: "numeric", month: "short", day: "numeric" };
  return new Intl.DateTimeFormat(language === "zh" ? "zh-TW" : language, form).format(date);
}

function showCurrent() {
  for (const open of list.querySelectorAll(".open"))
    open.dataset.key === currentChat().id ? open.setAttribute("aria-current", "true") : open.removeAttribute("aria-current");
}
