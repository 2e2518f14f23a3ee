/** Side notes: blocks between two markers in an answer's text. */

const MARKERS = ["<<<WARNING>>>", "<<</WARNING>>>"];

/** Tell an answer's text from its WARNING blocks, however the pieces cut the markers. */
export function splitNotes({ write, openNote, writeNote, closeNote }) {
  let held = "", inside = false;

  const emit = piece => piece && (inside ? writeNote : write)(piece);
  function enter(note) {
    if (inside) closeNote();
    inside = note;
    if (inside) openNote();
  }
  function halfMarker() {
    for (let length = Math.min(held.length, MARKERS[1].length); length; length--)
      if (MARKERS.some(marker => marker.startsWith(held.slice(-length)))) return length;
    return 0;
  }

  return {
    feed(piece) {
      held += piece;
      for (let found; (found = /<<<\/?WARNING>>>/.exec(held));) {
        emit(held.slice(0, found.index));
        held = held.slice(found.index + found[0].length);
        enter(found[0] === MARKERS[0]);
      }
      const safe = held.length - halfMarker();
      emit(held.slice(0, safe));
      held = held.slice(safe);
    },
    /** "<" at the end of a whole answer is text; at the end of one that was cut it may be half a marker. */
    end(whole) {
      if (whole && /^<+$/.test(held)) emit(held);
      enter(false);
    },
  };
}
