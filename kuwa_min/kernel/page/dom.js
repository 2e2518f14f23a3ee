/** What every part needs of the document. */

export const $ = id => document.getElementById(id);

/** Make an element; its content is text, never markup. */
export function element(tag, className, content = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = content;
  return made;
}

/** Make a button that calls `act` when it is pressed; label: its name for a screen reader. */
export function button(content, act, { className = "", label = "" } = {}) {
  const made = element("button", className, content);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

/** Make a bar of how much is done; label: its name for a screen reader. */
export function gauge(label, done, total) {
  const made = element("progress");
  made.max = total;
  made.value = done;
  made.setAttribute("aria-label", label);
  return made;
}

/** A key may belong to an input method that is choosing characters; Safari tells the last one only by its code 229. */
export const composing = event => event.isComposing || event.keyCode === 229;

export function randomId() {
  return 1 + crypto.getRandomValues(new Uint32Array(1))[0] % 999999999;
}
