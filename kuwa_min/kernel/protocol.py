"""The Kernel's bytes to objects and back; no sockets here.

Facts about the Kernel that this module and its users build on:
- A chat is a POST of a form: `input` (JSON list of {"isbot", "msg"}), `modelfile` (JSON list, may
  be absent, empty or null) and identifiers. The Kernel forwards its client's headers unchanged, so
  the Content-Type may say multipart while the body is urlencoded, which is UTF-8 whatever charset
  the header names; Host is the name by which the client calls the Kernel.
- isbot is 0, 1, a boolean or null, as the front end's database has it, and msg may be null.
- history_id is positive for chat rooms and negative for API calls.
- It ignores our status code and shows any body to the user as the answer.
- It treats a connection that ends without an HTTP answer as a dead executor and forgets it.
- One record is one request at a time; several endpoints on one port under one name are several
  records: /chat, /chat/1, /chat/2, ...
- register answers `Failed` if the endpoint is listed already (or a field is missing); unregister
  removes every record of that name whose scheme, host and port match, whatever the path.
- A record is [endpoint, "READY" | "BUSY", history_id, user_id]; the ids of a reserved one are
  strings in 0.4. The table is shown as JSON inside the <textarea> of GET worker/debug; 0.4 shows it
  as bare JSON at GET worker/read, and as objects at worker/debug if asked to accept JSON.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlencode

from kuwa_min.chat import bounded_json
from kuwa_min.chat.bounded_json import TooManyValues
from kuwa_min.chat.catalog import (
    EMPTY_REQUEST,
    MALFORMED_HISTORY,
    MALFORMED_MODELFILE,
    MODELFILE_TOO_LONG,
    TOO_MANY_MESSAGES,
)
from kuwa_min.chat.history import keep_client_system, rectify_chat_history, to_openai_chat_format
from kuwa_min.chat.modelfile import Message, Modelfile
from kuwa_min.errors import HTTPError

SUCCESS, FAILED = "Success", "Failed"
READY = "READY"
UNRESERVED = -1  # in place of both ids
RECORD_KEYS = ("endpoint", "status", "job_history_id", "job_user_id")
LIST_CONTENT = r"(?is)<textarea[^>]*>(.*?)</textarea>"  # compiled at its first use

Record = list[Any]  # [endpoint, state, history_id, user_id]
Table = dict[str, list[Record]]  # by name


class ChatRequest(NamedTuple):
    """One chat request: history, the bot's Modelfile, the whole form, and the header."""

    history: list[Message]
    modelfile: Modelfile
    form: dict[str, str]
    headers: Mapping[str, list[str]] = MappingProxyType({})  # values by lower-case name


def parse_chat_request(
    form: dict[str, str], accept_language: str | None, api_base_urls: str | None = None
) -> ChatRequest:
    """Build the chat request from a form; raises HTTPError with a message for the user.

    api_base_urls: the header X-Kuwa-Api-Base-Urls of 0.4's front end, separated by ";".
    """
    if not form:
        raise HTTPError(400, EMPTY_REQUEST)
    history = _parse_history(form)
    try:
        modelfile = Modelfile.from_json(form.get("modelfile"))
    except TooManyValues:
        raise HTTPError(400, MODELFILE_TOO_LONG) from None
    except (ValueError, RecursionError):
        raise HTTPError(400, MALFORMED_MODELFILE) from None
    for name, value in form.items():
        if name not in ("input", "modelfile"):
            modelfile.parameters[f"_{name}"] = value
    modelfile.parameters["_lang"] = accept_language
    urls = None if api_base_urls is None else api_base_urls.split(";")
    modelfile.parameters["_kuwa_api_base_urls"] = urls
    return ChatRequest(history, modelfile, form)


def _parse_history(form: dict[str, str]) -> list[Message]:
    try:
        entries = bounded_json.loads(form.get("input", "").strip() or "[]")
    except TooManyValues:
        raise HTTPError(400, TOO_MANY_MESSAGES) from None
    except (ValueError, RecursionError):
        raise HTTPError(400, MALFORMED_HISTORY) from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise HTTPError(400, MALFORMED_HISTORY)
    history = to_openai_chat_format(entries)
    if _is_api_call(form):
        history = keep_client_system(history)
    return rectify_chat_history(history)


def _is_api_call(form: dict[str, str]) -> bool:
    try:
        return int(form["history_id"]) < 0
    except (KeyError, ValueError):
        return False


def endpoint_path(path: str, index: int) -> str:
    """Return the path of the endpoint with this index: the first keeps the plain path."""
    return f"{path}/{index}" if index else path


def worker_url(kernel_url: str, version: str, action: str) -> str:
    """Return the URL of an action of the Kernel, such as register; kernel_url may have a path."""
    return f"{kernel_url.rstrip('/')}/{version}/worker/{action}"


def worker_form(name: str, endpoint: str) -> bytes:
    """Return the body of register and unregister, a form."""
    return urlencode({"name": name, "endpoint": endpoint}).encode()


def render_table(table: Table) -> bytes:
    """Return the Kernel's debug page, in which the front end looks for "name"."""
    text = html.escape(json.dumps(table, indent=2, ensure_ascii=False), quote=False)
    return f"<!doctype html><title>Kernel</title><textarea>{text}</textarea>".encode()


def parse_table(page: str) -> Table:
    """Parse a Kernel's records: JSON of either kind, or the page with them in its textarea.

    Raises ValueError if the page holds none.
    """
    found = None if page.lstrip().startswith("{") else re.search(LIST_CONTENT, page)
    table = json.loads(html.unescape(found[1]) if found else page)
    if not isinstance(table, dict) or not all(isinstance(rows, list) for rows in table.values()):
        raise ValueError("the page holds no table of records")
    return {name: [_record(row) for row in rows] for name, rows in table.items()}


def _record(row: Any) -> Record:
    """Return a record as a list; Kernel 0.4 may send an object. Raises ValueError."""
    record = [row.get(key) for key in RECORD_KEYS] if isinstance(row, dict) else row
    if not isinstance(record, list) or not all(isinstance(one, str) for one in record[:1]):
        raise ValueError("a record is neither a list nor an object with an endpoint")
    return record
