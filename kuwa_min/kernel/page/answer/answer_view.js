/** The view of one answer. */
import { element, gauge } from "../dom.js";
import { createBody } from "../markdown/body.js";
import { text } from "../texts.js";
import { thoughtsView } from "./thoughts.js";
import { addMessage, followEnd } from "./transcript.js";
import { number, string } from "./wire.js";

const ERRORS = ["EMERGENCY", "ALERT", "CRITICAL", "ERROR"], WARNINGS = ["WARNING", "NOTICE"];
const QUEUED = "waiting for a free slot", THOUGHTS = "Thinking";    // `desc` of our executors' progress
const LOG_LIMIT = 300;      // log lines of an answer that are kept on screen

/** Add an answer to the transcript and return its view, which is drawn at most once a frame. */
export function answerView() {
  const message = addMessage("assistant", text.assistant);
  const place = message.firstElementChild, body = createBody(place), meta = element("p", "meta");
  let frame = 0, note = null, gap = true, thoughts = null;
  let logs = null, bar = null, progress = null, passing = false;
  message.setAttribute("aria-busy", "true");
  message.lastElementChild.before(meta);

  const later = () => { frame ||= requestAnimationFrame(draw); };
  function draw() {
    frame = 0;
    thoughts?.draw();
    if (body.draw()) later();
    if (progress) progress(), progress = null;
    followEnd();
  }
  function drawProgress({ position, total, desc, postfix }) {
    const of = number(total) > 0, done = Math.max(0, Math.min(number(position), total));
    if (desc === QUEUED && of) return drawBar(`${text.waiting} ${text.place(done, total)}`, 0, 0);    // a place is no progress
    const what = desc === QUEUED ? text.waiting : desc === THOUGHTS ? text.thoughts : string(desc);
    drawBar([what, of && `${done}/${total}`, string(postfix)].filter(Boolean).join(" · "), done, of && total);
  }
  function drawBar(label, done, total) {
    if (!bar) meta.before(bar = element("div", "progress"));
    bar.replaceChildren(...total ? [gauge(label, done, total)] : [], element("span", "", label));
  }
  function addNote(kind, name) {
    const made = element("p", kind);
    made.setAttribute("role", "note");
    made.setAttribute("aria-label", name);
    meta.before(made);
    return made;
  }

  const view = {
    message, answer: "", thoughts: "", thinkingSeconds: 0, notes: [], logs: [], first: 0,    // first: when the first words came
    say(line) { meta.textContent = line; later(); },
    fail(line) { addNote("note error", text.error).textContent = line; },
    done(code) {
      view.endThoughts();
      body.end();
      draw();
      bar?.remove();
      if (code) {
        const name = text.codes[code];
        const chip = element("span", "code", [text.exit_code(code), name].filter(Boolean).join(" · "));
        chip.classList.toggle("incomplete", code === 1);
        meta.prepend(chip);
      }
      message.setAttribute("aria-busy", "false");
    },
    log(level, line) {
      if (!logs) meta.before(logs = element("div", "logs")), logs.setAttribute("aria-label", text.logs);
      const kind = ERRORS.includes(level) ? "error" : WARNINGS.includes(level) ? "warning" : "";
      const row = element("p", kind);
      row.append(element("b", "", level || "LOG"), line);
      logs.append(row);
      if (logs.children.length > LOG_LIMIT) logs.firstChild.remove();
      logs.scrollTop = logs.scrollHeight;
      view.logs.push({ level, text: line });
      if (view.logs.length > LOG_LIMIT) view.logs.shift();
      later();
    },
    progress(chunk) {
      passing = chunk.desc === THOUGHTS || chunk.desc === QUEUED;
      progress = () => drawProgress(chunk);
      later();
    },
    /** The model is loading; status: of its step, or null. */
    loading(status) {
      progress = () => drawBar(text.loading(status), number(status?.percent), 100);
      later();
    },
    /** Remove the progress bar. */
    loaded() { bar?.remove(), bar = progress = null, passing = false; },
    write(piece) {
      if (gap) piece = piece.replace(/^\n+/, "");    // the newlines around a note that was taken out
      if (piece) gap = false, view.first ||= performance.now();
      if (piece && passing) view.loaded();
      if (piece.trim()) view.endThoughts();
      view.answer += piece;
      body.write(piece);
      later();
    },
    /** Add to the thoughts. */
    think(piece) {
      if (!view.thoughts) piece = piece.trimStart();
      if (!piece) return;
      if (passing) view.loaded();
      thoughts ||= thoughtsView(place);
      view.first ||= performance.now();
      view.thoughts += piece;
      thoughts.write(piece);
      later();
    },
    /** End the thoughts and show how long they took; seconds: of a stored answer. */
    endThoughts(seconds) {
      if (thoughts) view.thinkingSeconds = thoughts.end(seconds);
    },
    openNote() {
      note = addNote("note", text.note);
      gap ||= view.answer.endsWith("\n");
    },
    writeNote(piece) { note.append(note.firstChild ? piece : piece.trimStart()); later(); },
    closeNote() {
      note.textContent = note.textContent.trim();
      note.firstChild ? view.notes.push(note.textContent) : note.remove();
    },
  };
  return view;
}
