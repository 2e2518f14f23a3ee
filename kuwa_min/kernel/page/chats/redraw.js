/** Redraw a part of the page and keep the focus in it. */

/**
 * Call draw(); if that removed the focused element, focus the one with the same `data-key`, else one whose key has the
 * same first word, else `otherwise`.
 */
export function redraw(part, draw, otherwise) {
  const focused = document.activeElement, key = part.contains(focused) ? focused.dataset.key : undefined;
  draw();
  if (key === undefined || document.activeElement === focused) return;
  const [place] = key.split(" "), all = [...part.querySelectorAll("[data-key]")].filter(one => !one.disabled);
  const found = all.find(one => one.dataset.key === key) || all.find(one => one.dataset.key.split(" ")[0] === place);
  (found || otherwise).focus();
}
