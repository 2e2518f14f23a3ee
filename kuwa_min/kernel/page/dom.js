/** Access to the DOM. */

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

/** Make a progress bar; label: its name for a screen reader. */
export function gauge(label, done, total) {
  const made = element("progress");
  made.max = total;
  made.value = done;
  made.setAttribute("aria-label", label);
  return made;
}

/** Tell whether a key belongs to an input method's composition; for the key that ends one, Safari has only keyCode 229. */
export const composing = event => event.isComposing || event.keyCode === 229;

export function randomId() {
  return 1 + crypto.getRandomValues(new Uint32Array(1))[0] % 999999999;
}
