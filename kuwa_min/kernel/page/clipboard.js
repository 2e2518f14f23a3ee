/** The clipboard, also without a secure context (plain HTTP from another machine). */
import { element } from "./dom.js";

/** Copy a text; return whether that worked. */
export async function copyText(content) {
  try {
    await navigator.clipboard.writeText(content);
    return true;
  } catch {
    const hidden = element("textarea", "copied", content), focused = document.activeElement;
    document.body.append(hidden);
    hidden.select();
    const done = document.execCommand("copy");
    hidden.remove();
    focused?.focus?.();
    return done;
  }
}
