/** What a model thinks before it answers: told from the answer, and folded above it. */
import { element } from "../dom.js";
import { plainBody } from "../markdown/body.js";
import { text } from "../texts.js";

const OPEN = "<think>", CLOSE = "</think>";    // as executors write them that do not send thoughts apart

/** Tell the text of an answer from a thought that it begins with, however the pieces cut the tags. */
export function splitThoughts({ write, think }) {
  let held = "", tag = OPEN;    // tag: the one that may come next; "" behind the last one

  return {
    feed(piece) {
      if (!tag) return write(piece);
      held += piece;
      if (tag === OPEN) {
        const start = held.trimStart();
        if (OPEN.startsWith(start.slice(0, OPEN.length)) && start.length < OPEN.length) return;
        if (!start.startsWith(OPEN)) return this.end();
        held = start.slice(OPEN.length).trimStart();
        tag = CLOSE;
      }
      const end = held.indexOf(CLOSE);
      if (end >= 0) {
        think(held.slice(0, end));
        held = held.slice(end + CLOSE.length);
        tag = "";
        return this.end();
      }
      const safe = held.length - halfTag(held);
      think(held.slice(0, safe));
      held = held.slice(safe);
    },
    end() {
      const rest = held, isThought = tag === CLOSE;
      held = tag = "";
      if (rest) isThought ? think(rest) : write(rest);
    },
  };
}

function halfTag(content) {
  for (let length = Math.min(content.length, CLOSE.length - 1); length; length--)
    if (CLOSE.startsWith(content.slice(-length))) return length;
  return 0;
}

/** Show thoughts before an element: write() them, draw() once a frame, end() when the answer begins. */
export function thoughtsView(before) {
  const made = element("details", "thoughts"), summary = element("summary"), content = element("div", "thought");
  const body = plainBody(content), started = performance.now();
  const elapsed = () => Math.round((performance.now() - started) / 1000);
  const show = sentence => { summary.textContent = sentence; };
  const clock = setInterval(() => show(text.thinking_for(elapsed())), 1000);
  let isOver = false;

  show(text.thoughts);
  made.setAttribute("aria-live", "off");    // the seconds are not read out
  made.append(summary, content);
  before.before(made);

  return {
    write: body.write,
    draw: body.draw,
    /** Stop the clock; seconds: how long it took, of thoughts that were kept. */
    end(seconds = elapsed()) {
      if (isOver) return seconds;
      isOver = true;
      clearInterval(clock);
      body.end();
      show(text.thought_for(seconds));
      return seconds;
    },
  };
}
