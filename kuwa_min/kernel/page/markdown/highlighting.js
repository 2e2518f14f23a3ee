/** Syntax highlighting by a worker with a deadline: slow code stays plain and does not block the page. */
import { libraries } from "./libraries.js";

const LONGEST = 50000;      // characters that are coloured
const DEADLINE_MS = 3000;
const SANITIZED = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true };

let worker = null, last = Promise.resolve(), number = 0;

/** Return code with spans of highlight.js' classes; null if it stays plain. */
export function highlight(code, language) {
  if (!libraries || !language || code.length > LONGEST) return null;
  const done = last.then(() => colour(code, language.toLowerCase()));    // one at a time, as the deadline is for each
  last = done;
  return done;
}

async function colour(code, language) {
  const html = await ask({ number: ++number, code, language });
  const made = html && libraries.purifier.sanitize(html, SANITIZED);
  return made?.textContent === code ? made : null;
}

function ask(question) {
  worker ||= new Worker(new URL("./highlight_worker.js", import.meta.url), { type: "module" });
  return new Promise(resolve => {
    const giveUp = () => {
      worker?.terminate();
      worker = null;
      resolve("");
    };
    const timer = setTimeout(giveUp, DEADLINE_MS);
    worker.onerror = () => { clearTimeout(timer); giveUp(); };
    worker.onmessage = ({ data }) => {
      if (data.number !== question.number) return;
      clearTimeout(timer);
      resolve(data.html);
    };
    worker.postMessage(question);
  });
}
