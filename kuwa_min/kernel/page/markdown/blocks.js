/** Splits streamed Markdown into blocks that can be rendered independently, in one pass over its lines.
 *
 * A block is {kind, text}: "code" (a fence, with its language), "math" (display math), "list" (an item, or text that
 * may go on behind a blank line), or "text" (any other Markdown). A block longer than LONGEST is split at a line, which
 * bounds the cost of rendering the last block again; `continued`: it continues the block before it.
 */

const LONGEST = 4000;       // characters of a block other than code
const FENCE = /^( *)(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const PARTIAL_FENCE = /^ {0,3}(?:`{1,2}$|~{1,2}$|`{3,}[^`]*$|~{3,})/;    // of an incomplete line
const ITEM = /^(?:[-*+]|\d{1,9}[.)])[ \t]+\S/, FIRST_ITEM = /^(?:[-*+]|1[.)])[ \t]/;    // others do not end a paragraph
const MATH = [["$$", "$$"], ["\\[", "\\]"]];
const TABLE_HEAD = /^.*\|.*\n[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)*\n/;

export function blockReader() {
  let block = null, partial = "", finished = [];

  function finish() {
    if (block?.kind === "code" || block?.text.trim()) finished.push(block);
    block = null;
  }
  function start(kind, more = {}) {
    finish();
    block = { kind, text: "", ...more };
  }

  function take(line) {
    if (block?.kind === "code") return takeCode(line);
    if (block?.kind === "math") return takeMath(line);
    if (block?.fence) {    // within an item of a list
      if (closes(block.fence, line)) block.fence = null;
      return add(line);
    }
    const indentation = indentationOf(line), isBlank = !line.trim();
    if (isBlank) return takeBlank();
    const fence = FENCE.exec(line), isInItem = block?.kind === "list" && indentation > 0;
    if (fence && isInItem) block.fence = fence;
    else if (fence && indentation < 4) return start("code", { fence, language: fence[3].trim().split(/[\s{]/, 1)[0] });
    else if (!isInItem && indentation < 4 && opensMath(line)) return;
    else if (startsItem(line) || (!block && indentation >= 4)) start("list");
    else if (block?.kind === "list" && block.hasGap && indentation < 2) start("text");
    add(line);
  }
  function takeCode(line) {
    if (closes(block.fence, line)) return finish();
    block.text += `${codeOf(line)}\n`;
  }
  const codeOf = line => line.slice(Math.min(indentationOf(line), block.fence[1].length));
  const startsItem = line => ITEM.test(line) && (block?.kind !== "text" || FIRST_ITEM.test(line));
  function takeMath(line) {
    const end = line.indexOf(block.close), isOpen = end < 0 && line.trim() && block.text.length < LONGEST;
    add(line);
    if (isOpen) return;
    if (end < 0 || line.slice(end + 2).trim()) block.kind = "text";    // a closing marker within a line: no display math
    finish();
  }
  function takeBlank() {
    if (block?.kind !== "list") return finish();
    block.hasGap = true;
    add("");
  }
  function opensMath(line) {
    const trimmed = line.trim(), found = MATH.find(([open]) => trimmed.startsWith(open));
    if (!found) return false;
    const end = trimmed.indexOf(found[1], 2);
    if (end >= 0 && end !== trimmed.length - 2) return false;    // text follows it: math within a line
    start("math", { close: found[1] });
    add(line);
    if (end >= 0) finish();
    return true;
  }
  function add(line) {
    block ||= { kind: "text", text: "" };
    block.text += `${line}\n`;
    if (block.text.length < LONGEST || block.kind === "math") return;
    const { kind, text, fence } = block;
    finish();
    block = { kind, text: fence ? `${fence[0].trim()}\n` : TABLE_HEAD.exec(text)?.[0] || "", fence, continued: true };
  }

  return {
    /** Return the blocks that this piece finishes. */
    feed(piece) {
      piece = piece.replaceAll("\r", "");
      if (piece.includes("\n")) {
        const lines = (partial + piece).split("\n");
        partial = lines.pop();
        lines.forEach(take);
      } else {
        partial += piece;
      }
      if (partial.length > LONGEST && block?.kind !== "code") take(partial), partial = "";
      return finished.splice(0);
    },
    /** Return the unfinished block, without an incomplete line that may become a fence; null if there is none. */
    rest() {
      const isHidden = PARTIAL_FENCE.test(partial) && (block?.kind !== "code" || closes(block.fence, partial, true));
      const shown = isHidden ? "" : block?.kind === "code" ? codeOf(partial) : partial;
      if (!block) return shown ? { kind: "text", text: shown } : null;
      return { ...block, text: block.text + shown };
    },
    /** Return the last blocks: the text has ended. */
    end() {
      if (partial) take(partial);
      partial = "";
      finish();
      return finished.splice(0);
    },
  };
}

function indentationOf(line) {
  let width = 0;
  for (const one of line)
    if (one === " ") width++;
    else if (one === "\t") width += 4 - width % 4;
    else break;
  return width;
}

/** Tell whether a line closes a fence; partial: or may become such a line. */
function closes(fence, line, partial = false) {
  const trimmed = line.trim(), mark = fence[2];
  return Boolean(trimmed) && [...trimmed].every(one => one === mark[0]) && (partial || trimmed.length >= mark.length);
}
