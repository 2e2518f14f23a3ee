/** The optional libraries, which the Kernel lists in index.html; without them, answers are plain text. */

const NEEDED = ["highlight", "marked", "purify"];    // highlight.js is imported by highlight_worker.js
const carried = document.documentElement.dataset.libraries?.split(" ") || [];

export const libraries = NEEDED.every(name => carried.includes(name)) ? await load() : null;

async function load() {
  try {
    const [{ Marked }, { default: purifier }] = await Promise.all([
      import("../libraries/marked.js"),
      import("../libraries/purify.js"),
    ]);
    return { Marked, purifier };
  } catch (error) {
    console.error("Answers are shown as plain text:", error);
    return null;
  }
}
