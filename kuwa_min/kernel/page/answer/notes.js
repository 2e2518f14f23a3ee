/** Side notes: blocks between two markers in an answer's text. */
import { partialMarkerLength } from "./markers.js";

const MARKERS = ["<<<WARNING>>>", "<<</WARNING>>>"];

/** Split an answer into text and WARNING blocks; markers may be cut anywhere by the pieces. */
export function splitNotes({ write, openNote, writeNote, closeNote }) {
  let held = "", inside = false;

  const emit = piece => piece && (inside ? writeNote : write)(piece);
  function enter(note) {
    if (inside) closeNote();
    inside = note;
    if (inside) openNote();
  }

  return {
    feed(piece) {
      held += piece;
      for (let found; (found = /<<<\/?WARNING>>>/.exec(held));) {
        emit(held.slice(0, found.index));
        held = held.slice(found.index + found[0].length);
        enter(found[0] === MARKERS[0]);
      }
      const safe = held.length - partialMarkerLength(held, MARKERS);
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
