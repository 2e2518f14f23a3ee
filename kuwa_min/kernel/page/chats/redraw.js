/** Draw a part of the page anew without losing the keyboard's place in it. */

/**
 * Draw; if what had the focus is gone, focus what has the same `data-key`, or else one with the same first word in it,
 * or else another element.
 */
export function redraw(part, draw, otherwise) {
  const focused = document.activeElement, key = part.contains(focused) ? focused.dataset.key : undefined;
  draw();
  if (key === undefined || document.activeElement === focused) return;
  const [place] = key.split(" "), all = [...part.querySelectorAll("[data-key]")].filter(one => !one.disabled);
  const found = all.find(one => one.dataset.key === key) || all.find(one => one.dataset.key.split(" ")[0] === place);
  (found || otherwise).focus();
}
