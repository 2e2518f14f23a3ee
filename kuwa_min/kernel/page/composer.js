/** The composer: message box, Send and Stop. */
import { $, composing } from "./dom.js";
import { acceptAttachments, attachments, setAttachments } from "./attachments/attachments.js";
import { followEnd } from "./answer/transcript.js";
import { ask, hooks, mayAsk, stop, underWay } from "./turn.js";
import { text } from "./texts.js";

const box = $("message");

export const focusMessage = () => box.focus();
export const hasDraft = () => box.value !== "" || attachments().length > 0;
const isEmpty = () => !box.value.trim() && !attachments().length;

export function setDraft(value, files = []) {
  setAttachments(files);
  box.value = value;
  box.dispatchEvent(new Event("input"));
}

export function showControls() {
  const turn = underWay();
  if (!turn && document.activeElement === $("stop")) box.focus();
  $("send").hidden = Boolean(turn);
  $("stop").hidden = !turn;
  $("send").disabled = isEmpty() || !hooks.accessCode();
}

function send() {
  const question = box.value, files = attachments();
  if (isEmpty() || !mayAsk()) return;
  setDraft("");
  box.focus();
  ask(question, files);
}

box.placeholder = text.message;
acceptAttachments(showControls);
$("send").addEventListener("click", send);
$("stop").addEventListener("click", () => stop());
box.addEventListener("input", () => {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  followEnd();
  showControls();
});
box.addEventListener("keydown", event => {
  if (event.key !== "Enter" || event.shiftKey || composing(event)) return;
  event.preventDefault();
  send();
});
addEventListener("keydown", event => {
  if (event.key === "Escape" && !composing(event) && !document.querySelector("dialog[open]")) stop();
});
