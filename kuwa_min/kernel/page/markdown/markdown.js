/** Renders untrusted Markdown to elements without scripts, ids, styles, pictures or frames.
 *
 * marked's HTML has the model's own HTML as text, but for a few tags without attributes; DOMPurify then removes all that
 * is not listed here; links are completed last. The page's CSP is the third line of defence.
 */
import { element } from "../dom.js";
import { codeBlock } from "./code_blocks.js";
import { libraries } from "./libraries.js";
import { maskMath, mathExtensions } from "./math.js";

const PLAIN_TAGS = "br|sub|sup|kbd|b|i|u|s|em|strong|del|ins|mark|small";
const PLAIN_TAG = new RegExp(`&lt;(/?(?:${PLAIN_TAGS}))\\s*/?&gt;`, "gi");
const SANITIZED = {
  ALLOWED_TAGS: [
    ...PLAIN_TAGS.split("|"),
    ..."p h3 h4 h5 h6 ul ol li blockquote hr pre code a span div table thead tbody tr th td".split(" "),
  ],
  ALLOWED_ATTR: ["href", "class", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ADD_URI_SAFE_ATTR: ["start", "align"],    // which are no URLs
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const CLASS = /^(?:math|picture|plain|language-[\w+#.-]{1,30})$/;
const NESTED_DEEPLY = /^[ \t]*(?:>[ \t]?|(?:[-*+]|\d{1,9}[.)])[ \t]+){30}/m;    // containers within containers
const LONGEST_ADDRESS = 80;    // characters that are shown of an address

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = text => text.replace(/[&<>"']/g, one => ENTITIES[one]);
const escapeButEntities = text => text.replace(/[<>"']|&(?!#?\w{1,20};)/g, one => ENTITIES[one]);
const shortened = text => text.length > LONGEST_ADDRESS ? `${text.slice(0, LONGEST_ADDRESS - 1)}…` : text;

/** Return the URL of a link that may be opened, "" for any other. */
function addressOf(href) {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : "";
  } catch {
    return "";    // relative: a path of this site
  }
}

const renderer = {
  html({ text, block }) {
    const shown = escapeButEntities(text).replace(PLAIN_TAG, "<$1>");
    return block ? `<p class="plain">${shown}</p>` : shown;
  },
  text({ text, tokens }) { return tokens ? this.parser.parseInline(tokens) : escapeButEntities(text); },
  heading({ tokens, depth }) {    // below those of the page
    const tag = `h${Math.min(depth + 2, 6)}`;
    return `<${tag}>${this.parser.parseInline(tokens)}</${tag}>`;
  },
  code: ({ text, lang }) => {
    const language = /^[\w+#.-]{1,30}/.exec(lang || "");
    return `<pre><code${language ? ` class="language-${language[0]}"` : ""}>${escape(text)}</code></pre>`;
  },
  link({ href, tokens }) {
    const shown = this.parser.parseInline(tokens), address = addressOf(href);
    return address ? `<a href="${escape(address)}">${shown}</a>` : `${shown} (${escape(shortened(href))})`;
  },
  image({ href, text }) {
    const address = addressOf(href), shown = escape(shortened(href));
    return `<span class="picture">${escape(text)} (${address ? `<a href="${escape(address)}">${shown}</a>` : shown})</span>`;
  },
  checkbox: ({ checked }) => checked ? "☑ " : "☐ ",
};

const marked = libraries && new libraries.Marked({ gfm: true, breaks: false }, {
  renderer,
  tokenizer: { def: () => undefined },    // reference definitions stay text: blocks are rendered independently
  extensions: mathExtensions,
  hooks: { emStrongMask: maskMath },
});
libraries?.purifier.addHook("uponSanitizeAttribute", (_, data) => {
  if (data.attrName === "class" && !CLASS.test(data.attrValue) && !data.attrValue.startsWith("hljs")) data.keepAttr = false;
});

/** Render Markdown; finished: it will not change, so code is highlighted. */
export function render(source, { finished = true } = {}) {
  const made = parse(source);
  for (const link of made.querySelectorAll("a[href]")) completeLink(link);
  for (const table of made.querySelectorAll("table")) makeScrollable(table);
  for (const code of made.querySelectorAll("pre > code")) {
    const block = codeBlock(/language-(\S+)/.exec(code.className)?.[1] || "");
    block.append(code.textContent);
    if (finished) block.finish();
    code.parentElement.replaceWith(block.element);
  }
  return made;
}

function parse(source) {
  try {
    if (!NESTED_DEEPLY.test(source)) return libraries.purifier.sanitize(marked.parse(source), SANITIZED);
  } catch (error) {
    console.warn("Markdown is shown as plain text:", error);
  }
  const plain = new DocumentFragment();
  plain.append(element("p", "plain", source));
  return plain;
}

/** Show a link's host, open it in a new tab, and send no referrer. */
function completeLink(link) {
  const url = new URL(link.href), place = url.host || url.pathname;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.title = url.href;
  if (!isAt(place, link.textContent)) link.dataset.place = shortened(place);
}

/** Tell whether a link's text is a URL at this host; one that has the host elsewhere may be meant to deceive. */
function isAt(place, shown) {
  const address = shown.trim().toLowerCase().replace(/^(?:https?:\/\/|mailto:)/, "");
  return address.startsWith(place) && /^(?:[/?#]|$)/.test(address.slice(place.length));
}

function makeScrollable(table) {
  const frame = element("div", "table");
  frame.tabIndex = 0;
  table.replaceWith(frame);
  frame.append(table);
}
