/** Thoughts: split from the answer that follows them, and shown folded above it. */
import { element } from "../dom.js";
import { plainBody } from "../markdown/body.js";
import { text } from "../texts.js";
import { partialMarkerLength } from "./markers.js";

const OPEN = "<think>", CLOSE = "</think>";    // of executors that send thoughts as text

/** Split a leading thought from the text of an answer; tags may be cut anywhere by the pieces. */
export function splitThoughts({ write, think }) {
  let held = "", tag = OPEN;    // tag: the next one, "" after the last

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
      const safe = held.length - partialMarkerLength(held, [CLOSE]);
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
    /** Stop the clock and return the seconds; they are given for stored thoughts. */
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
