/** The transcript: a list of messages that follows its own end while the reader is there. */
import { $, element } from "../dom.js";

const log = $("log");
let sticky = true, lastTop = 0;    // sticky: the transcript follows its own end

log.addEventListener("scroll", () => {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 4;
  sticky = atEnd || (sticky && log.scrollTop >= lastTop);
  lastTop = log.scrollTop;
});
addEventListener("resize", followEnd);

export function followEnd() {
  if (sticky) log.scrollTop = log.scrollHeight;
}

/** Follow the end again, wherever the reader was. */
export function stickToEnd() {
  sticky = true;
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

export function clearTranscript() {
  log.replaceChildren($("welcome"));
  $("welcome").hidden = false;
  stickToEnd();
}
