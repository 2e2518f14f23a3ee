/** The body of an answer, drawn as it streams in: Markdown if the libraries are there, else plain text. */
import { element } from "../dom.js";
import { blockReader } from "./blocks.js";
import { codeBlock } from "./code_blocks.js";
import { libraries } from "./libraries.js";
import { render } from "./markdown.js";

const PART_LENGTH = 4000;   // plain text is split into parts, so that a new piece does not lay out all of it again
const PAUSE = 4;            // the last block is rendered again after this many times its rendering time

/** Make the body of an answer in an element: write() to it, draw() it once a frame, end() it.
 *
 * draw() returns whether there is more to draw later.
 */
export const createBody = into => libraries ? markdownBody(into) : plainBody(into);

export function plainBody(into) {
  let part = null, partLength = 0, pending = "";

  function draw() {
    while (pending) {
      const cut = partLength > PART_LENGTH ? pending.indexOf("\n") : -1;
      const piece = cut < 0 ? pending : pending.slice(0, cut);
      if (!part) into.append(part = element("div", "part"));
      part.append(piece);
      partLength += piece.length;
      pending = cut < 0 ? "" : pending.slice(cut + 1);
      if (cut >= 0) part = null, partLength = 0;    // the end of the part stands for the newline
    }
    return false;
  }
  return { write(piece) { pending += piece; }, draw, end: draw };
}

function markdownBody(into) {
  const reader = blockReader();
  let pending = "", open = null, tail = [], nextAt = 0, isStale = false;
  into.classList.add("markdown");

  /** Replace the nodes of the unfinished block. */
  function replaceTail(nodes, block = {}) {
    for (const node of tail) node.remove();
    tail = place(into, nodes, block);
  }
  function add(block) {
    if (block.kind === "code") return addCode(block, true);
    replaceTail(nodesOf(block), block);
    tail = [];
    open = null;
  }
  /** Draw code incrementally: only new text is appended. */
  function addCode({ language, text }, isWhole) {
    if (!open) {
      const made = codeBlock(language);
      replaceTail([made.element]);
      open = { made, length: 0 };
    }
    if (text.length > open.length) open.made.append(text.slice(open.length)), open.length = text.length;
    if (!isWhole) return;
    open.made.finish();
    tail = [];
    open = null;
  }
  function drawTail() {
    const rest = reader.rest(), began = performance.now();
    isStale = false;
    if (rest?.kind === "code") addCode(rest, false);
    else replaceTail(rest ? nodesOf(rest, { finished: false }) : [], rest || {});
    nextAt = performance.now() + PAUSE * (performance.now() - began);
  }

  return {
    write(piece) { pending += piece; },
    draw() {
      if (pending) {
        reader.feed(pending).forEach(add);
        pending = "";
        isStale = true;
      }
      if (isStale && performance.now() >= nextAt) drawTail();
      return isStale;
    },
    end() {
      reader.feed(pending).forEach(add);
      reader.end().forEach(add);
      pending = "";
      replaceTail([]);
      isStale = false;
    },
  };
}

function nodesOf({ kind, text }, options) {
  return kind === "math" ? [element("div", "math", text.trim())] : [...render(text, options).childNodes];
}

/** Append a block's nodes; items of a list, or rows of a split table, go into the element that they continue.
 *
 * Returns the new nodes.
 */
function place(into, nodes, { kind, continued }) {
  const before = into.lastElementChild, first = nodes[0];
  const isSame = before && first?.tagName === before.tagName;
  let list = null, items = [];
  if (isSame && kind === "list" && /^[OU]L$/.test(first.tagName)) [list, items] = [before, [...first.children]];
  else if (isSame && continued && first.matches(".table"))
    [list, items] = [before.querySelector("tbody"), [...first.querySelectorAll("tbody > tr")]];
  list?.append(...items);
  const others = list ? nodes.slice(1) : nodes;
  into.append(...others);
  return [...items, ...others];
}
