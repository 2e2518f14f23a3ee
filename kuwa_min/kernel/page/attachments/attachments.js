/** Attachments: added by button, drop or paste, and shown with their message. */
import { $, button, element } from "../dom.js";
import { text } from "../texts.js";
import { Unusable, isPicture, readFile, sizeOf } from "./files.js";

const MOST = 8;    // of a message; executors read no more

const box = $("message"), place = $("attached"), chooser = element("input");
let attached = [], problem = "", onChange = () => {};

export const attachments = () => attached;

export function setAttachments(wanted) {
  attached = wanted;
  problem = "";
  show();
}

/** Let the user attach files; changed() is called after each change. */
export function acceptAttachments(changed) {
  onChange = changed;
  chooser.type = "file";
  chooser.multiple = true;
  chooser.hidden = true;
  chooser.addEventListener("change", () => { add(chooser.files); chooser.value = ""; });
  $("tools").append(button("+", () => chooser.click(), { label: text.attach }), chooser);
  box.addEventListener("paste", event => {
    const { files, types } = event.clipboardData;
    if (!files.length || types.includes("text/plain")) return;    // office programs add a picture to their text
    event.preventDefault();
    add(files);
  });
  const page = document.documentElement, hasFiles = event => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", event => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    page.classList.add("dropping");
  });
  addEventListener("dragleave", event => { if (!event.relatedTarget) page.classList.remove("dropping"); });
  addEventListener("drop", event => {
    page.classList.remove("dropping");
    if (!hasFiles(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
}

async function add(files) {
  const problems = [];
  for (const file of [...files]) {
    try {
      const made = await readFile(file);
      if (attached.length < MOST) attached = [...attached, made];
      else problems.push(text.too_many_files(made.name, MOST));
    } catch (error) {
      problems.push(error instanceof Unusable ? error.message : text.unreadable(file.name));
    }
  }
  problem = problems.join(" ");
  show();
  box.focus();
}

function show() {
  const rows = attached.map(one => {
    const row = element("li"), remove = button("✕", () => {
      setAttachments(attached.filter(other => other !== one));
      box.focus();
    }, { label: text.remove_attachment(one.name) });
    row.append(...preview(one), remove);
    return row;
  });
  const list = element("ul", "files"), alert = element("p", "problem", problem);
  list.append(...rows);
  alert.setAttribute("role", "alert");
  place.replaceChildren(...rows.length ? [list] : [], ...problem ? [alert] : []);
  place.hidden = !rows.length && !problem;
  onChange();
}

function preview(attachment) {
  const label = element("span", "name", attachment.name), about = element("span", "size", sizeOf(attachment));
  return isPicture(attachment) ? [picture(attachment), label, about] : [label, about];
}

function picture({ data, name }) {
  const made = element("img");
  made.alt = name;
  made.src = data;
  return made;
}

/** Show the attachments of a message above its text. */
export function showAttachments(message, kept = []) {
  if (!kept.length) return;
  const list = element("ul", "files");
  list.setAttribute("aria-label", text.attachments);
  for (const one of kept) {
    const row = element("li");
    if (isPicture(one)) row.append(picture(one));
    else row.append(fileDetails(one));
    list.append(row);
  }
  message.querySelector(".text").before(list);
}

function fileDetails(attachment) {
  const made = element("details"), summary = element("summary");
  summary.append(element("span", "name", attachment.name), element("span", "size", sizeOf(attachment)));
  made.append(summary, element("pre", "", attachment.text || ""));
  return made;
}
