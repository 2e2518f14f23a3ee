/** The libraries that draw answers, where this file carries them; the Kernel says which in index.html. */

const carried = document.documentElement.dataset.libraries.split(" ");

/** Load all or none: without one of them an answer is shown as plain text. */
async function load() {
  if (!["highlight", "marked", "purify"].every(name => carried.includes(name))) return null;
  try {
    const [marked, purify, highlight] = await Promise.all([
      import("./libraries/marked.js"), import("./libraries/purify.js"), import("./libraries/highlight.js"),
    ]);
    return { Marked: marked.Marked, DOMPurify: purify.default, hljs: highlight.default };
  } catch {
    return null;
  }
}

/** A promise of {Marked, DOMPurify, hljs}, or of null. */
export const libraries = load();
