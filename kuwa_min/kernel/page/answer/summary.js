/** The summary line below an answer: times, tokens, speed. */
import { text } from "../texts.js";
import { number } from "./wire.js";

/** Return the line; `first` and `seconds`: from the question to the first words and the end; `done` is false for a cut answer. */
export function summaryOf({ text: answer, stopped, refused, usage, first, seconds, done }) {
  const times = first > 0 && text.times(first.toFixed(1), number(seconds).toFixed(1), [...answer].length);
  const written = number(usage?.completion_tokens), writing = seconds - first;
  const tokens = usage && text.tokens(number(usage.prompt_tokens), written);
  const speed = first > 0 && written > 1 && writing > .05 && text.speed(((written - 1) / writing).toFixed(1));
  return [done === false && text.unfinished, stopped && text.stopped, refused && text.refused, times, tokens, speed]
    .filter(Boolean).join(" · ");
}
