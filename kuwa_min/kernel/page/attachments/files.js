/** Reads files into attachments: {name, type, data} is a picture as data: URL, {name, type, text} a text. */
import { text } from "../texts.js";

const LARGEST_TEXT = 200 << 10;      // bytes
const LARGEST_FILE = 32 << 20;       // bytes of a picture; it is made smaller
const LARGEST_PICTURE = 1 << 20;     // bytes that are sent as they are
const LONGEST_SIDE = 2048;           // pixels of one that was made smaller; models see fewer
const PICTURES = [    // by their first bytes, as executors do
  [/^\x89PNG\r\n\x1a\n/, "image/png"], [/^\xff\xd8\xff/, "image/jpeg"], [/^GIF8[79]a/, "image/gif"], [/^RIFF[^]{4}WEBP/, "image/webp"],
];
const DATA = /^data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}$/;

/** A file that cannot be attached; the message is for the user. */
export class Unusable extends Error {}

/** Return the attachment that a file makes. Raises Unusable. */
export async function readFile(file) {
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  const type = PICTURES.find(([bytes]) => bytes.test(start))?.[1], name = file.name || text.pasted;
  if (type) return { name, type, data: await pictureOf(file, name, type) };
  if (file.size > LARGEST_TEXT && !/\0/.test(start)) throw new Unusable(text.too_large(name, size(file.size), size(LARGEST_TEXT)));
  return { name, type: "text/plain", text: await textOf(file, name) };
}

async function textOf(file, name) {
  let content = "\0";
  try {
    content = new TextDecoder("utf-8", { fatal: true }).decode(await file.slice(0, LARGEST_TEXT).arrayBuffer());
  } catch { /* another encoding, or no text */ }
  if (content.includes("\0")) throw new Unusable(text.no_text(name));
  if (!content.trim()) throw new Unusable(text.empty_file(name));
  return content;
}

async function pictureOf(file, name, type) {
  if (file.size > LARGEST_FILE) throw new Unusable(text.too_large(name, size(file.size), size(LARGEST_FILE)));
  let bitmap;
  try { bitmap = await createImageBitmap(file); } catch { throw new Unusable(text.no_picture(name)); }
  try {
    return file.size > LARGEST_PICTURE ? smaller(bitmap) : await dataUrl(new Blob([file], { type }));
  } finally {
    bitmap.close();
  }
}

function smaller(bitmap) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height)), canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";    // behind what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.85);
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Tell whether an attachment is a picture; those of imported chats are untrusted. */
export const isPicture = ({ data }) => typeof data === "string" && DATA.test(data);

/** Format a number of bytes. */
export const size = bytes => bytes < 1 << 20 ? `${Math.max(1, Math.round(bytes / 1024))} KB` : `${(bytes / 2 ** 20).toFixed(1)} MB`;
export const sizeOf = attachment => size(isPicture(attachment) ? attachment.data.length * 3 / 4 : (attachment.text || "").length);
