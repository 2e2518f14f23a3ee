/** A turn: one question and its streamed answer. */
import { showAttachments } from "./attachments/attachments.js";
import { sentText, withinLimit } from "./attachments/sent_text.js";
import { addMessage, stickToEnd } from "./answer/transcript.js";
import { answerView } from "./answer/answer_view.js";
import { splitNotes } from "./answer/notes.js";
import { summaryOf } from "./answer/summary.js";
import { splitThoughts } from "./answer/thoughts.js";
import { number, readAnswer } from "./answer/wire.js";
import { notify } from "./chats/notice.js";
import { Problem, abort, abortOnPageHide, post, reserve, userId } from "./kernel.js";
import { text } from "./texts.js";

const MOST_TURNS = 4;       // a browser has six connections to a host, and the page needs others than answers
const HANG_UP_MS = 3000;    // how long an abort may take before the page drops the connection itself

/** How a turn reaches the other parts of the page; set by page.js and chats/session.js. */
export const hooks = {
  accessCode: () => "",
  historyId: () => 0,
  history: () => [],            // what is sent before the question: [{isbot, msg}]
  fields: async () => ({}),     // (messages): more fields of the form
  begun() {},                   // (turn): a question is on the screen, its answer is awaited
  ended() {},                   // (turn, result): see answer; another chat may be on the screen
};

const turns = new Map();    // under way, by history_id
/** Return the turn under way in a chat: the one on the screen, unless the history_id of another is given. */
export const underWay = (historyId = hooks.historyId()) => turns.get(historyId);

/** Tell whether the chat on the screen can be asked now; say so if too many others are being answered. */
export function mayAsk() {
  if (underWay() || !hooks.accessCode()) return false;
  if (turns.size < MOST_TURNS) return true;
  notify(text.too_many_answers(MOST_TURNS));
  return false;
}

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
  const turn = { ids, question, attachments, asked, view, stopped: false, sent: false, hangUp: new AbortController() };
  const messages = withinLimit([...hooks.history(), { isbot: false, msg: sentText(question, attachments) }]);
  const result = { exitCode: 0, refused: false, usage: null, problem: "" };
  const started = performance.now();
  stickToEnd();
  turns.set(ids.history_id, turn);
  hooks.begun(turn);

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
  turns.delete(ids.history_id);
  hooks.ended(turn, result);
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

/** Stop a turn; send: how the Kernel is told. */
export function stop(turn = underWay(), send = abort) {
  if (!turn || turn.stopped) return;
  turn.stopped = true;
  turn.view.say(text.stopping);
  turn.wake?.();
  if (turn.sent) send(turn);
  setTimeout(() => turn.hangUp.abort(), HANG_UP_MS);
}

addEventListener("pagehide", () => {
  for (const turn of turns.values()) stop(turn, abortOnPageHide);
});
