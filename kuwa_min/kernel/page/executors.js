/** The table of executors, and the list of access codes that follows it. */
import { $, button, element, gauge } from "./dom.js";
import { Problem, postJson, read, readStatuses, userId } from "./kernel.js";
import { text } from "./texts.js";

const COLUMNS = ["access_code", "endpoint", "state", "free", "queue", "users", "action"];
const USERS_SHOWN = 3;      // reservations that are listed for one executor
const REFRESH_MS = 3000;    // between two refreshes of the table
const LOADING_MS = 1000;    // and while an executor is loading
const LEAVING_MS = 20000;   // after this an executor that is still listed can be asked again

const codes = $("access_code");
let shownTable = "", isLoading = false, leaving = new Set();   // leaving: the executors that were asked to shut down
let served = [];            // the access codes of the table
let historyId = () => 0, changed = () => {};

/** Fill the table and keep it up to date; hooks: historyId(), and changed(), called after each update. */
export function showExecutors(hooks) {
  ({ historyId, changed } = hooks);
  $("executors").tHead.rows[0].append(...COLUMNS.map(column => element("th", "", text[column])));
  $("command").textContent = `kuwa-executor dummy --kernel_url ${new URL(".", location)}`;
  $("cancel").addEventListener("click", () => $("shutdown").close());
  const wide = matchMedia("(min-width: 60.01rem)");
  const openPanel = () => { $("panel").open = wide.matches; };
  wide.addEventListener("change", openPanel);
  openPanel();
  keepRefreshing();
}

export const accessCode = () => codes.value;

/** Select an access code, even if no executor serves it now; for an empty one, a code that is served. */
export function chooseAccessCode(code) {
  code ||= served.includes(codes.value) ? codes.value : served[0];
  if (!code) return;
  if (![...codes.options].some(option => option.value === code)) codes.add(new Option(code, code));
  codes.value = code;
  changed();
}

export async function refresh() {
  try {
    const [table, statuses] = await Promise.all([read("worker/read"), readStatuses()]);
    const state = JSON.stringify([table, statuses, historyId(), [...leaving]]);
    if (state !== shownTable) showTable([...executorsOf(table, statuses), ...loadingExecutors(table, statuses)]);
    shownTable = state;
  } catch {
    shownTable = "";
    $("count").textContent = text.offline;
  }
}

/** Return the executors that are loading, which are not in the Kernel's table yet. */
function loadingExecutors(table, statuses) {
  const loading = status => status.origin ? [] : status.access_codes.filter(code => !Object.hasOwn(table, code));
  return statuses.flatMap(status => loading(status).map(code =>
    ({ code, origin: "", rows: [], free: 0, users: [], record: ["", "LOADING"], status })));
}

/** Group the endpoints of one access code by host and port: they are one executor. */
function executorsOf(table, statuses) {
  const found = new Map();
  for (const [code, rows] of Object.entries(table))
    for (const row of rows) {
      const origin = originOf(row[0]), key = JSON.stringify([code, origin]);
      if (!found.has(key)) found.set(key, { code, origin, rows: [] });
      found.get(key).rows.push(row);
    }
  return [...found.values()].map(executor => {
    const { rows } = executor, free = rows.filter(row => row[1] === "READY" && row[2] === -1);
    const users = rows.filter(row => row[2] !== -1).map(row => row.slice(2));
    const status = statuses.find(one => one.origin && originOf(one.origin) === executor.origin);
    return { ...executor, free: free.length, users, record: free[0] || rows[0], status };
  });
}

function originOf(endpoint) {
  try {
    return new URL(endpoint).origin;
  } catch {
    return endpoint;
  }
}

function showTable(executors) {
  leaving = new Set([...leaving].filter(origin => executors.some(one => one.origin === origin)));
  $("executors").tBodies[0].replaceChildren(...executors.map(executorRow));
  $("count").textContent = text.count(executors.filter(one => one.free).length, executors.length);
  isLoading = executors.some(one => !one.rows.length);
  const isUsable = executors.some(one => one.rows.length);
  $("hint").textContent = isUsable ? text.ready : executors.length ? text.write_now : text.none;
  $("command").hidden = executors.length > 0;
  served = [...new Set(executors.map(one => one.code))];
  showCodes();
  changed();
}

function executorRow(executor) {
  const { code, origin, rows, free, users, record, status } = executor, gone = leaving.has(origin);
  const [endpoint, state] = [rows[0]?.[0] || "", record[1]];
  const row = element("tr", state === "READY" ? "READY" : "BUSY");
  row.classList.toggle("leaving", gone);
  row.classList.toggle("mine", users.some(ids => `${ids}` === `${[historyId(), userId]}`));    // text or numbers
  row.setAttribute("role", "row");
  const shownState = gone ? text.leaving : rows.length ? state : text.loading_state;
  const waiting = status?.waiting ? text.in_queue(status.waiting) : "";
  const cells = [code, endpoint, shownState, rows.length > 1 ? text.free_of(free, rows.length) : "", waiting, "", ""];
  COLUMNS.forEach((column, index) => {
    const cell = element("td", column, cells[index]);
    cell.setAttribute("role", "cell");
    row.append(cell);
  });
  row.querySelector(".users").append(...usersShown(users));
  if (!rows.length) {
    const label = text.loading(status.progress);
    row.querySelector(".queue").append(gauge(label, status.progress?.percent || 0, 100), label);
  } else if (!gone) row.querySelector(".action").append(
    button(text.shut_down, () => askShutdown(executor), { label: text.shut_down_what(code) }));
  return row;
}

function usersShown(users) {
  const shown = users.slice(0, USERS_SHOWN).map(([history_id, user_id]) =>
    element("span", "", `${text.history_id} ${history_id}, ${text.user_id} ${user_id}`));
  return users.length > USERS_SHOWN ? [...shown, element("span", "", `+${users.length - USERS_SHOWN}`)] : shown;
}

function askShutdown(executor) {
  $("shutdown_what").textContent = text.shut_down_what(executor.code);
  $("shutdown_where").textContent = executor.origin;
  $("confirm").onclick = () => { $("shutdown").close(); shutDown(executor); };
  $("refusal").hidden = true;
  $("shutdown").showModal();
  $("cancel").focus();
}

async function shutDown({ code, origin, record }) {
  const [endpoint, status, history_id, user_id] = record;
  leaving.add(origin);
  setTimeout(() => leaving.delete(origin), LEAVING_MS);
  try {
    await postJson("worker/shutdown", { access_code: code, endpoint, status, history_id, user_id });
  } catch (error) {
    leaving.delete(origin);
    $("refusal").textContent = `${code}: ${error instanceof Problem ? error.message : text.broken}`;
    $("refusal").hidden = false;
  }
  refresh();
}

/** Bring the list up to date; the chosen code stays, even when its executor is gone. */
function showCodes() {
  const wanted = new Set(codes.value ? [...served, codes.value] : served);
  for (const option of [...codes.options]) if (!wanted.delete(option.value)) option.remove();
  for (const name of wanted) codes.add(new Option(name, name));
}

async function keepRefreshing() {
  if (!document.hidden) await refresh();
  setTimeout(keepRefreshing, isLoading ? LOADING_MS : REFRESH_MS);
}
