/** The worker of highlighting.js. */

const loading = import("../libraries/highlight.js");

addEventListener("message", async ({ data: { number, code, language } }) => {
  const { default: hljs } = await loading;
  const known = hljs.getLanguage(language);
  postMessage({ number, html: known ? hljs.highlight(code, { language, ignoreIllegals: true }).value : "" });
});
