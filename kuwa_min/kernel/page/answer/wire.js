/** The wire formats of answers: raw text of Kuwa 0.3, framed lines of 0.4. */

const FRAME = 'data: {"';   // how an answer of Kuwa 0.4 begins; any other is raw text, as in 0.3

export const string = value => typeof value === "string" ? value : "";
export const number = value => Number.isFinite(value) ? value : 0;

/** Return an incremental parser of an answer, raw text or framed lines, that calls a method of `show` for each chunk. */
export function readAnswer(show) {
  let held = "", framed = null;    // null: not known yet

  const handlers = {
    text: chunk => show.text(string(chunk.text?.value)),
    thought: chunk => show.thought(string(chunk.thought?.text)),
    log: chunk => show.log(string(chunk.log?.level), string(chunk.log?.text)),
    progress: chunk => show.progress(chunk.progress || {}),
    exit_code: chunk => show.exitCode(number(Number(chunk.exit_code))),
    refusal: chunk => show.refusal(string(chunk.refusal?.text)),
    image_url: chunk => show.log("IMAGE", string(chunk.image_url)),
    audio_url: chunk => show.log("AUDIO", string(chunk.audio_url)),
  };
  function take(line) {
    let frame = null;
    try { frame = line.startsWith("data: ") && JSON.parse(line.slice(6)); } catch { /* text */ }
    if (!Array.isArray(frame?.delta)) return show.text(line);
    const chunks = frame.delta.filter(chunk => chunk && Object.hasOwn(handlers, chunk.type));
    // Executors repeat a refusal as text, for front ends that ignore refusals.
    const said = chunks.filter(chunk => chunk.type === "text").map(chunk => chunk.text?.value);
    for (const chunk of chunks)
      if (chunk.type === "refusal" && said.includes(chunk.refusal?.text)) show.refusal("");
      else handlers[chunk.type](chunk);
    if (frame.usage) show.usage(frame.usage);
  }

  return {
    feed(piece) {
      held += piece;
      framed ??= FRAME.startsWith(held) && held !== FRAME ? null : held.startsWith(FRAME);
      if (framed === null) return;
      const lines = framed ? held.split("\n") : [held, ""];
      held = lines.pop();
      for (const line of lines) framed ? take(`${line}\n`) : show.text(line);
    },
    end() {
      if (held) framed ? take(held) : show.text(held);
      held = "";
    },
  };
}
