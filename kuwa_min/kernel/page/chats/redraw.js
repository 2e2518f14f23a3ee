/** Draw a part of the page anew without losing the keyboard's place in it. */

/** Draw; then focus what has the same `data-key` as what had the focus before, or else the element of `otherwise`. */
export function redraw(part, draw, otherwise) {
  const focused = document.activeElement, key = part.contains(focused) ? focused.dataset.key : undefined;
  draw();
  if (key === undefined || document.activeElement === focused) return;
  const same = [...part.querySelectorAll("[data-key]")].find(one => one.dataset.key === key && !one.disabled);
  (same || otherwise()).focus();
}
