/** Math in Markdown, shown as source: its underscores, asterisks and backslashes are no markup. */

const escape = text => text.replace(/[&<>]/g, one => `&#${one.charCodeAt(0)};`);
// $...$ as pandoc reads it: no space within the dollars, no digit behind them ("$5 and $10" are prices).
const MATH = String.raw`\$\$[^$]{1,1000}?\$\$|\\\([^]{1,1000}?\\\)|\\\[[^]{1,1000}?\\\]|\$(?![\s$])(?:[^$\\\n]|\\[^\n]){1,500}(?<!\s)\$(?!\d)`;
const AT_START = new RegExp(`^(?:${MATH})`), ANYWHERE = new RegExp(MATH, "g");
const OPENING = /\$|\\[([]/;

export const mathExtensions = [{
  name: "math",
  level: "inline",
  start: source => source.search(OPENING),
  tokenizer(source) {
    const found = AT_START.exec(source);
    return found ? { type: "math", raw: found[0], text: found[0] } : undefined;
  },
  renderer: ({ text }) => `<span class="math">${escape(text)}</span>`,
}];

/** Mask math when emphasis is searched; the length stays. */
export const maskMath = source => source.replace(ANYWHERE, found => "a".repeat(found.length));
