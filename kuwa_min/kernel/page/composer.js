/** Where a message is written: the box, Send and Stop. */
import { $, composing } from "./dom.js";
import { followEnd } from "./answer/transcript.js";
import { ask, seams, stop, underWay } from "./turn.js";
import { text } from "./texts.js";

const box = $("message");

export const focusMessage = () => box.focus();
export const draft = () => box.value;

export function setDraft(value) {
  box.value = value;
  box.dispatchEvent(new Event("input"));
}

export function showControls() {
  const turn = underWay();
  if (!turn && document.activeElement === $("stop")) box.focus();
  $("send").hidden = Boolean(turn);
  $("stop").hidden = !turn;
  $("send").disabled = !box.value.trim() || !seams.accessCode();
}

function send() {
  const question = box.value;
  if (underWay() || !question.trim() || !seams.accessCode()) return;
  setDraft("");
  box.focus();
  ask(question);
}

box.placeholder = text.message;
$("send").addEventListener("click", send);
$("stop").addEventListener("click", stop);
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
