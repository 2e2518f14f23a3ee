/** A turn: one question, and its answer as it comes in. */
import { addMessage, stickToEnd } from "./answer/transcript.js";
import { answerView } from "./answer/answer_view.js";
import { splitNotes } from "./answer/notes.js";
import { splitThoughts } from "./answer/thoughts.js";
import { number, readAnswer } from "./answer/wire.js";
import { Problem, abort, abortAtLast, post, reserve, userId } from "./kernel.js";
import { text } from "./texts.js";

const HANG_UP_MS = 3000;    // how long an abort may take before the page drops the connection itself

/** What a turn asks of the other parts of the page; page.js fills it in. */
export const seams = {
  accessCode: () => "",
  historyId: () => 0,
  history: () => [],            // what is sent before the question: [{isbot, msg}]
  message: question => question,    // what is sent as the question
  fields: async () => ({}),     // more fields of the form
  begun() {},                   // (turn): a question is on the screen, its answer is awaited
  ended() {},                   // (turn, result): see ask
  changed() {},                 // a turn begins or ends
};

let current = null;    // the turn under way in the chat on screen
export const underWay = () => current;

/** Show a question and its answer. */
export const ask = question => answer(question, addMessage("user", text.you, question));

/** Answer a question whose message is on the screen already.
 *
 * The turn has `question`, `asked` (the question's element) and `view` (the answer's, with `view.message`); the result
 * has `text`, `notes` (their number), `usage`, `exitCode`, `stopped`, `problem`, `refused`, `seconds`, `meta` (the last line).
 */
export async function answer(question, asked) {
  const ids = { name: seams.accessCode(), history_id: seams.historyId(), user_id: userId };
  const view = answerView(), notes = splitNotes(view);
  const splitter = splitThoughts({ write: notes.feed, think: view.think });
  const turn = current = { ids, question, asked, view, stopped: false, sent: false, hangUp: new AbortController() };
  const messages = [...seams.history(), { isbot: false, msg: seams.message(question) }];
  const result = { exitCode: 0, refused: false, usage: null, problem: "" };
  const started = performance.now();
  stickToEnd();
  seams.begun(turn);
  seams.changed();

  try {
    view.say(text.thinking);
    const more = await seams.fields();
    if (await reserve(turn)) {
      if (!turn.stopped) view.say(text.thinking);
      await exchange(turn, { ...ids, ...more, input: JSON.stringify(messages) }, reader(view, splitter, result));
    }
    if (!turn.stopped && !view.answer && !view.notes && !view.logged && !result.refused) result.problem = text.empty;
  } catch (error) {
    if (!turn.stopped) result.problem = error instanceof Problem ? error.message : text.broken;
  }

  splitter.end();
  notes.end(!turn.stopped && !result.problem);
  if (result.problem) view.fail(result.problem);
  result.seconds = (performance.now() - started) / 1000;
  result.meta = metaLine(turn, result, started);
  view.say(result.meta);
  view.done(result.exitCode);
  // A question without an answer is no part of the history.
  if (!view.answer && !view.notes) asked.classList.add("unanswered");
  const isCurrent = current === turn;
  if (isCurrent) current = null;
  seams.ended(turn, { ...result, text: view.answer, notes: view.notes, stopped: turn.stopped, isCurrent });
  seams.changed();
}

function reader(view, splitter, result) {
  return readAnswer({
    text(piece) { if (piece) splitter.feed(piece); },
    thought(piece) {
      if (!view.thoughts) view.say("");    // what says that it thinks is above
      view.think(piece);
    },
    log: view.log, progress: view.progress,
    exitCode(code) { result.exitCode = code; },
    refusal(reason) { result.refused = true; splitter.feed(reason); },
    usage(counts) { result.usage = counts; },
  });
}

async function exchange(turn, form, incoming) {
  const { view } = turn, sign = {
    "X-Kuwa-User-Id": String(userId),    // asks executors for framed lines
    "X-Kuwa-Thoughts": "apart",          // and ours for thoughts in chunks of their own
  };
  turn.sent = true;
  const response = await post("chat/completions", form, turn.hangUp.signal, sign);
  if (turn.stopped) abort(turn);    // an abort that overtook the question found nothing to stop
  const body = response.body.getReader(), decoder = new TextDecoder();
  for (let end = false; !end;) {
    const { value, done } = await body.read();
    const begun = view.answer;
    incoming.feed(decoder.decode(value, { stream: !done }));
    if (view.answer && !begun && !turn.stopped) view.say(text.streaming);
    end = done;
  }
  incoming.end();
}

function metaLine({ view, stopped }, { refused, usage }, started) {
  const now = performance.now(), seconds = until => ((until - started) / 1000).toFixed(1);
  const times = view.first && text.times(seconds(view.first), seconds(now), [...view.answer].length);
  const written = number(usage?.completion_tokens), writing = (now - view.first) / 1000;
  const tokens = usage && text.tokens(number(usage.prompt_tokens), written);
  const speed = view.first && written > 1 && writing > 0 && text.speed(((written - 1) / writing).toFixed(1));
  return [stopped && text.stopped, refused && text.refused, times, tokens, speed].filter(Boolean).join(" · ");
}

export function stop() {
  const turn = current;
  if (!turn || turn.stopped) return;
  turn.stopped = true;
  turn.view.say(text.stopping);
  turn.wake?.();
  if (turn.sent) abort(turn);
  setTimeout(() => turn.hangUp.abort(), HANG_UP_MS);
}

/** Stop, and let what still comes in go to a message that is no longer on the screen. */
export function leave() {
  stop();
  current = null;
}

addEventListener("pagehide", () => {
  if (current) abortAtLast(current);
});
