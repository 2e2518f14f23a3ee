/** A turn: one question and its streamed answer. */
import { showAttachments } from "./attachments/attachments.js";
import { sentText, withinLimit } from "./attachments/sent_text.js";
import { addMessage, stickToEnd } from "./answer/transcript.js";
import { answerView } from "./answer/answer_view.js";
import { splitNotes } from "./answer/notes.js";
import { summaryOf } from "./answer/summary.js";
import { splitThoughts } from "./answer/thoughts.js";
import { number, readAnswer } from "./answer/wire.js";
import { Problem, abort, abortOnPageHide, post, reserve, userId } from "./kernel.js";
import { text } from "./texts.js";

const HANG_UP_MS = 3000;    // how long an abort may take before the page drops the connection itself

/** How a turn reaches the other parts of the page; set by page.js and chats/session.js. */
export const hooks = {
  accessCode: () => "",
  historyId: () => 0,
  history: () => [],            // what is sent before the question: [{isbot, msg}]
  fields: async () => ({}),     // (messages): more fields of the form
  begun() {},                   // (turn): a question is on the screen, its answer is awaited
  ended() {},                   // (turn, result): see ask
  changed() {},                 // a turn has begun or ended
};

let current = null;    // the turn under way in the chat on screen
export const underWay = () => current;

/** Show a question with its attachments, and its answer. */
export function ask(question, attachments = []) {
  const asked = addMessage("user", text.you, question);
  showAttachments(asked, attachments);
  return answer(question, asked, attachments);
}

/** Answer a question whose message is on the screen already.
 *
 * The turn has `question`, `attachments`, `asked` (the question's element) and `view` (the answer's, with `view.message`); the
 * result has `text`, `thoughts`, `thinkingSeconds`, `notes`, `logs`, `usage`, `exitCode`, `stopped`, `problem`, `refused`, and `first`
 * and `seconds`: until the first words, 0 if there were none, and the end.
 */
export async function answer(question, asked, attachments = []) {
  const ids = { name: hooks.accessCode(), history_id: hooks.historyId(), user_id: userId };
  const view = answerView(), noteSplitter = splitNotes(view);
  const splitter = splitThoughts({ write: noteSplitter.feed, think: view.think });
  const turn = current = { ids, question, attachments, asked, view, stopped: false, sent: false, hangUp: new AbortController() };
  const messages = withinLimit([...hooks.history(), { isbot: false, msg: sentText(question, attachments) }]);
  const result = { exitCode: 0, refused: false, usage: null, problem: "" };
  const started = performance.now();
  stickToEnd();
  hooks.begun(turn);
  hooks.changed();

  try {
    view.say(text.thinking);
    const more = await hooks.fields(messages);
    if (await reserve(turn)) {
      view.loaded();
      if (!turn.stopped) view.say(text.thinking);
      await exchange(turn, { ...ids, ...more, input: JSON.stringify(messages) }, reader(view, splitter, result));
    }
    if (!turn.stopped && !view.answer && !view.notes.length && !view.logs.length && !result.refused) result.problem = text.empty;
  } catch (error) {
    if (!turn.stopped) result.problem = error instanceof Problem ? error.message : text.broken;
  }

  splitter.end();
  noteSplitter.end(!turn.stopped && !result.problem);
  if (result.problem) view.fail(result.problem);
  view.endThoughts();
  const { answer: said, thoughts, thinkingSeconds, notes, logs, first } = view, { stopped } = turn;
  const seconds = until => (until - started) / 1000;
  Object.assign(result, { text: said, thoughts, thinkingSeconds, notes, logs, stopped });
  Object.assign(result, { first: first && seconds(first), seconds: seconds(performance.now()) });
  view.say(summaryOf(result));
  view.done(result.exitCode);
  const isCurrent = current === turn;
  if (isCurrent) current = null;
  hooks.ended(turn, { ...result, isCurrent });
  hooks.changed();
}

function reader(view, splitter, result) {
  return readAnswer({
    text(piece) { if (piece) splitter.feed(piece); },
    thought(piece) {
      if (!view.thoughts) view.say("");    // the line above says that it thinks
      view.think(piece);
    },
    log: view.log, progress: view.progress,
    exitCode(code) { result.exitCode = code; },
    refusal(reason) { result.refused = true; splitter.feed(reason); },
    usage({ prompt_tokens, completion_tokens }) {
      result.usage = { prompt_tokens: number(prompt_tokens), completion_tokens: number(completion_tokens) };
    },
  });
}

async function exchange(turn, form, incoming) {
  const { view } = turn, headers = {
    "X-Kuwa-User-Id": String(userId),    // has executors send framed lines
    "X-Kuwa-Thoughts": "apart",          // and ours send thoughts as chunks
  };
  turn.sent = true;
  const response = await post("chat/completions", form, turn.hangUp.signal, headers);
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

export function stop() {
  const turn = current;
  if (!turn || turn.stopped) return;
  turn.stopped = true;
  turn.view.say(text.stopping);
  turn.wake?.();
  if (turn.sent) abort(turn);
  setTimeout(() => turn.hangUp.abort(), HANG_UP_MS);
}

/** Stop the turn and detach it: its message is no longer on the screen. */
export function leave() {
  stop();
  current = null;
}

addEventListener("pagehide", () => {
  if (current) abortOnPageHide(current);
});
