/** The last line of an answer. */
import { text } from "../texts.js";
import { number } from "./wire.js";

/** Return it for an answer; `first` and `seconds`: until its first words and its end, `done` is false for one that has none. */
export function summaryOf({ text: answer, stopped, refused, usage, first, seconds, done }) {
  const times = first > 0 && text.times(first.toFixed(1), number(seconds).toFixed(1), [...answer].length);
  const written = number(usage?.completion_tokens), writing = seconds - first;
  const tokens = usage && text.tokens(number(usage.prompt_tokens), written);
  const speed = first > 0 && written > 1 && writing > .05 && text.speed(((written - 1) / writing).toFixed(1));
  return [done === false && text.unfinished, stopped && text.stopped, refused && text.refused, times, tokens, speed]
    .filter(Boolean).join(" · ");
}
