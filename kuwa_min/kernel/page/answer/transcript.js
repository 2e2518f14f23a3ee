/** The transcript: the list of messages, scrolled to its end as long as the user does not scroll up. */
import { $, element } from "../dom.js";

const log = $("log");
let sticky = true, lastTop = 0;    // sticky: scroll with new content

/** Note where the user has scrolled to. */
function noteScroll() {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 4;
  sticky = atEnd || (sticky && log.scrollTop >= lastTop);
  lastTop = log.scrollTop;
}
log.addEventListener("scroll", noteScroll);
addEventListener("resize", followEnd);

export function followEnd() {
  noteScroll();    // the event of a scroll comes with the next frame only
  if (!sticky) return;
  log.scrollTop = log.scrollHeight;
  lastTop = log.scrollTop;
}

/** Scroll with new content again. */
export function stickToEnd() {
  sticky = true;
  lastTop = 0;
}

/** Add a message of two children: its text, and a place for buttons. */
export function addMessage(kind, label, content = "") {
  const message = element("article", `message ${kind}`);
  message.setAttribute("aria-label", label);
  message.append(element("div", "text", content), element("div", "actions"));
  $("welcome").hidden = true;
  log.append(message);
  return message;
}

/** Add an element that was a message of the transcript before, and return it. */
export function putBack(message) {
  $("welcome").hidden = true;
  log.append(message);
  return message;
}

export function clearTranscript() {
  log.replaceChildren($("welcome"));
  $("welcome").hidden = false;
  stickToEnd();
}
