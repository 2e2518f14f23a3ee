/** Markers in a text that comes in pieces. */

/** Return the length of the text's end that may be the beginning of a marker. */
export function partialMarkerLength(text, markers) {
  for (let length = Math.min(text.length, Math.max(...markers.map(marker => marker.length)) - 1); length; length--)
    if (markers.some(marker => marker.startsWith(text.slice(-length)))) return length;
  return 0;
}
