/** Attachments as part of a message's text: Kuwa's chats are text, in which executors look for URLs. */
import { isPicture } from "./files.js";

// A form has 8 MiB at most, some characters take three bytes in it, and every turn sends the whole history.
const MOST_DATA = 5 << 20;    // characters of all pictures
const PICTURE = /data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+/g;
const LEFT_OUT = "[picture]";

/** Return the text to send for a question: pictures stand before it, as Kuwa's front end has them, then texts. */
export function sentText(question, attachments = []) {
  const pictures = attachments.filter(isPicture).map(one => one.data);
  const files = attachments.filter(one => typeof one.text === "string").map(inlined);
  return [...pictures, ...files, question].filter(Boolean).join("\n");
}

/** Return a file's text between fences that are longer than any in it. */
function inlined({ name, text }) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length)), fence = "`".repeat(longest + 1);
  return `${name}:\n${fence}\n${text.replace(/\n?$/, "\n")}${fence}\n`;
}

/** Replace all but the newest pictures, as many as fit into MOST_DATA. */
export function withinLimit(messages) {
  let left = MOST_DATA;
  const bounded = ({ msg, ...message }) =>
    ({ ...message, msg: msg.replace(PICTURE, found => (left -= found.length) >= 0 ? found : LEFT_OUT) });
  return [...messages].reverse().map(bounded).reverse();
}

/** Return the Modelfile commands that messages need: services read pictures only where the Modelfile enables it. */
export const commandsFor = messages =>
  messages.some(({ msg }) => msg.search(PICTURE) >= 0) ? [{ name: "parameter", args: "llm_enable_multimodal true" }] : [];
