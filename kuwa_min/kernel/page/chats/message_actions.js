/** The buttons of a message: copy, edit, retry, switch between versions, delete. */
import { $, button, composing, element } from "../dom.js";
import { copyText } from "../clipboard.js";
import { text } from "../texts.js";
import { underWay } from "../turn.js";
import { childrenOf, isAnswered } from "./conversation.js";
import { notify } from "./notice.js";
import { redraw } from "./redraw.js";
import { ask, currentChat, deleteMessages, on, retry, showBranch, shownMessages } from "./session.js";

const drawn = new WeakMap();    // by a message's element: the state that its buttons show

/** Keep the buttons of all messages up to date. */
export function showActions() {
  on("drawn", () => redraw($("log"), () => shownMessages().forEach(drawActions), $("message")));
}

function drawActions({ message, element: article }, index, all) {
  const versions = childrenOf(currentChat(), message.parent).map(one => one.id), place = versions.indexOf(message.id);
  const isLast = index === all.length - 1, busy = Boolean(underWay()), isQuestion = message.role === "user";
  const state = JSON.stringify([message.id, versions, isLast, busy]);
  const isAwaited = busy && index === all.length - 2, next = all[index + 1]?.message;
  article.classList.toggle("unanswered", Boolean(next) && isQuestion && !isAwaited && !isAnswered(next));
  if (drawn.get(article) === state) return;
  drawn.set(article, state);
  const bar = article.querySelector(":scope > .actions");
  const add = (name, act, label = text[name]) => {
    const made = button(text[name], act, { className: name, label });
    made.dataset.key = `${index} ${name}`;
    bar.append(made);
    return made;
  };
  bar.replaceChildren();
  if (versions.length > 1) {
    const to = step => () => showBranch(versions[place + step]);
    add("previous", to(-1), text.previous_version).disabled = busy || place === 0;
    bar.append(versionOf(place, versions.length));
    add("next", to(1), text.next_version).disabled = busy || place === versions.length - 1;
  }
  add("copy", async () => notify(await copyText(message.text) ? text.copied : text.not_copied));
  if (busy) return;
  if (isQuestion) add("edit", () => edit(article, message));
  if (isQuestion ? isLast : message.parent) add("retry", () => retry(message.id));
  add("delete", () => deleteMessages(message.id));
}

function versionOf(place, count) {
  const made = element("span", "version", `${place + 1}/${count}`);
  made.setAttribute("aria-label", text.version_of(place + 1, count));
  made.setAttribute("role", "img");
  return made;
}

/** Replace a question by a box to edit it in. */
function edit(article, message) {
  if (article.classList.contains("editing")) return;
  const box = element("textarea", "", message.text), form = element("div", "editor"), row = element("div", "row");
  const close = () => {
    form.remove();
    article.classList.remove("editing");
  };
  const cancel = () => {
    close();
    article.querySelector(".actions .edit")?.focus();
  };
  const send = () => {
    if (!box.value.trim() && !message.attachments?.length) return;
    if (ask(message.id, box.value)) close();
  };
  const grow = () => {
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  };
  box.setAttribute("aria-label", text.edit_message);
  box.addEventListener("input", grow);
  form.addEventListener("keydown", event => {
    if (composing(event)) return;
    if (event.key === "Escape") cancel();
    else if (event.key === "Enter" && !event.shiftKey && event.target === box) send();
    else return;
    event.preventDefault();
    event.stopPropagation();    // the page's Escape stops answers
  });
  row.append(button(text.cancel, cancel), button(text.send, send, { className: "send" }));
  form.append(box, row);
  article.classList.add("editing");
  article.querySelector(":scope > .actions").before(form);
  grow();
  form.scrollIntoView({ block: "nearest" });
  box.focus();
  box.setSelectionRange(box.value.length, box.value.length);
}
