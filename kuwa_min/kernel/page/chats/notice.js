/** A notice at the top of the page, with an optional action. */
import { button, element } from "../dom.js";
import { text } from "../texts.js";

const SHOWN_MS = 20000;    // longer while the pointer or the focus is on it

const bar = element("div", "notice");
bar.setAttribute("role", "status");
document.body.append(bar);
let timer = 0;

/** Show a line; action: `{label, act}` of a button. */
export function notify(line, action = null) {
  const undo = action && button(action.label, () => { hide(); action.act(); });
  bar.replaceChildren(element("span", "", line), ...undo ? [undo] : [], button("×", hide, { className: "close", label: text.close }));
  clearTimeout(timer);
  timer = setTimeout(hideLater, SHOWN_MS);
}

function hide() {
  clearTimeout(timer);
  bar.replaceChildren();
}

function hideLater() {
  if (bar.matches(":hover, :focus-within")) timer = setTimeout(hideLater, SHOWN_MS);
  else hide();
}
