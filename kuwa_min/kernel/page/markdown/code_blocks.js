/** Code blocks: language, copy button, highlighting; invisible characters are shown by name. */
import { button, element } from "../dom.js";
import { copyText } from "../clipboard.js";
import { text } from "../texts.js";
import { highlight } from "./highlighting.js";

// Invisible characters that change how code reads or runs: bidirectional controls, zero-width ones, fillers, tags.
// Joiners belong to words of some scripts, so only those beside ASCII characters.
const INVISIBLE = new RegExp(
  "[\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\u200b\\u2060-\\u2064\\ufeff\\u00ad\\u180e\\u115f\\u1160\\u3164\\uffa0]" +
  "|[\\u{e0000}-\\u{e007f}]|(?<=[\\x00-\\x7f])[\\u200c\\u200d]|[\\u200c\\u200d](?=[\\x00-\\x7f])",
  "gu",
);
const COPIED_MS = 2000;

/** Make a block of code: append() text to it, then finish() it. */
export function codeBlock(language) {
  const made = element("div", "code_block"), head = element("div", "code_head");
  const frame = element("pre"), code = element("code");
  let source = "";
  const copy = button(text.copy, async () => {
    copy.textContent = await copyText(source.replace(INVISIBLE, "")) ? text.copied : text.not_copied;
    setTimeout(() => { copy.textContent = text.copy; }, COPIED_MS);
  }, { label: text.copy_code });
  copy.setAttribute("aria-live", "polite");
  head.append(element("span", "language", language || text.code), copy);
  frame.tabIndex = 0;
  frame.append(code);
  made.append(head, frame);

  return {
    element: made,
    append(piece) {
      source += piece;
      code.append(...visible(piece));
    },
    async finish() {
      const coloured = await highlight(source, language);
      if (!coloured) return;
      nameInvisible(coloured);
      code.replaceChildren(coloured);
    },
  };
}

/** Return a text as nodes, with the names of invisible characters. */
function visible(source) {
  const nodes = [];
  let at = 0;
  for (const found of source.matchAll(INVISIBLE)) {
    const name = `U+${found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    nodes.push(source.slice(at, found.index), element("span", "invisible", name));
    at = found.index + found[0].length;
  }
  return [...nodes, source.slice(at)].filter(Boolean);
}

function nameInvisible(fragment) {
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT), texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  for (const node of texts) if (node.data.search(INVISIBLE) >= 0) node.replaceWith(...visible(node.data));
}
