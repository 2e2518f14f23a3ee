/** Full-text search in chats. */

const AT_ONCE = 32;               // chats that are read together
const BEFORE = 24, AFTER = 90;    // characters of a text that are shown around a match

/**
 * Yield `{chat, message, snippet}` for each chat that has all words of a query in its title or in one of its messages.
 *
 * message: the id of the newest such message, null for a title; snippet: [before, match, after], null for a title.
 */
export async function* search(store, query) {
  const words = folded(query).split(/\s+/).filter(Boolean);
  const all = await store.list();
  for (let start = 0; start < all.length; start += AT_ONCE) {
    const chats = await Promise.all(all.slice(start, start + AT_ONCE).map(({ id }) => store.load(id)));
    for (const chat of chats) {
      const found = chat && foundIn(chat, words);    // one may be deleted meanwhile
      if (found) yield found;
    }
  }
}

function foundIn(chat, words) {
  const messages = Object.values(chat.messages).sort((a, b) => b.created - a.created);
  const found = messages.find(one => hasAll(contentOf(one), words));
  if (found) return { chat, message: found.id, snippet: snippetOf(contentOf(found), words[0]) };
  return hasAll(chat.title, words) ? { chat, message: null, snippet: null } : null;
}

/** Normalize a text for comparison: without case and width of letters. */
const folded = text => text.normalize("NFKC").toLowerCase();
const contentOf = message => [message.text, ...message.notes || []].join("\n");

function hasAll(text, words) {
  const content = folded(text);
  return words.every(word => content.includes(word));
}

function snippetOf(text, word) {
  const whole = text.normalize("NFKC"), small = whole.toLowerCase();
  const shown = (small.length === whole.length ? whole : small).replace(/\s/g, " ");    // "İ" in small letters is longer
  const at = small.indexOf(word), end = at + word.length, start = Math.max(0, at - BEFORE);
  const rest = shown.slice(end, end + AFTER);
  return [
    (start ? "…" : "") + shown.slice(start, at), shown.slice(at, end), rest + (end + AFTER < shown.length ? "…" : ""),
  ];
}
