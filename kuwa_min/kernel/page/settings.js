/** The settings of a chat: system prompt, temperature, longest answer; empty ones are the executor's defaults. */
import { $, button, element } from "./dom.js";
import { text } from "./texts.js";

const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)$/;
const FIELDS = [
  { name: "system", make: () => element("textarea"), read: value => value },
  { name: "temperature", make: () => input("decimal"), read: numberWithin(0, 2, Number.isFinite), problem: text.temperature_range },
  { name: "max_tokens", make: () => input("numeric"), read: numberWithin(1, 1e6, Number.isInteger), problem: text.max_tokens_range },
];

function input(mode) {
  const made = element("input");
  made.inputMode = mode;
  made.autocomplete = "off";
  return made;
}

/** Return a function that reads a number of a kind; it returns undefined for other texts. */
function numberWithin(least, most, isKind) {
  return value => {
    const number = NUMBER.test(value) ? Number(value) : NaN;
    return isKind(number) && number >= least && number <= most ? number : undefined;
  };
}

/** Return a chat's settings as Modelfile commands. */
export function modelfileOf({ system, temperature, max_tokens } = {}) {
  const given = value => value !== undefined && value !== null && value !== "";
  return [
    given(system) && { name: "system", args: `"""${system}"""` },    // its own quotes stay
    given(temperature) && { name: "parameter", args: `llm_temperature ${temperature}` },
    given(max_tokens) && { name: "parameter", args: `llm_max_tokens ${max_tokens}` },
  ].filter(Boolean);
}

/** Add the button and the dialog; read() returns the settings of the chat on the screen, write(settings) stores them.
 *
 * Returns a function to call when another chat is shown.
 */
export function showSettings({ read, write }) {
  const dialog = element("dialog", "settings"), form = element("form"), rows = FIELDS.map(fieldRow);
  const opener = button("⚙", open, { label: text.settings });
  const title = element("b", "", text.settings), buttons = element("div", "buttons"), save = element("button", "primary", text.save);
  title.id = "settings_title";
  dialog.setAttribute("aria-labelledby", title.id);
  buttons.append(button(text.cancel, () => dialog.close()), save);
  form.noValidate = true;
  form.append(title, element("p", "", text.settings_hint), ...rows.map(row => row.element), buttons);
  form.addEventListener("submit", event => {
    event.preventDefault();
    const found = rows.map(row => [row.name, row.check()]), wrong = rows.find(row => row.isWrong());
    if (wrong) return wrong.field.focus();
    write(Object.fromEntries(found.filter(([, value]) => value !== undefined)));
    dialog.close();
    update();
  });
  dialog.append(form);
  document.body.append(dialog);
  $("tools").append(opener);

  function open() {
    const settings = read();
    for (const row of rows) row.show(settings[row.name] ?? "");
    dialog.showModal();
    rows[0].field.focus();
  }
  function update() {
    const isSet = modelfileOf(read()).length > 0;
    opener.classList.toggle("set", isSet);
    opener.setAttribute("aria-label", isSet ? text.settings_set : text.settings);
  }
  update();
  return update;
}

function fieldRow({ name, make, read, problem = "" }) {
  const row = element("label", "field"), field = make(), note = element("span", "problem");
  field.name = name;
  field.placeholder = text.executors_default;
  note.id = `${name}_problem`;
  note.setAttribute("role", "alert");
  field.setAttribute("aria-describedby", note.id);
  row.append(element("span", "", text[`setting_${name}`]), field, note);
  const say = sentence => {
    note.textContent = sentence;
    field.setAttribute("aria-invalid", String(Boolean(sentence)));
  };
  field.addEventListener("input", () => say(""));
  return {
    name, field, element: row,
    show(value) { field.value = String(value); say(""); },
    isWrong: () => Boolean(note.textContent),
    /** Return the value, undefined if it is empty or invalid; show why it is invalid. */
    check() {
      const value = field.value.trim(), found = value ? read(value) : undefined;
      say(value && found === undefined ? problem : "");
      return found;
    },
  };
}
