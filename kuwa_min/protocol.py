"""The Kernel's bytes to objects and back; no sockets here.

Facts about the Kernel that this module and its users build on:
- A chat is a POST of a form: `input` (JSON list of {"isbot", "msg"}), `modelfile` (JSON list, may
  be absent, empty or null) and identifiers. The Kernel forwards its client's headers unchanged, so
  the Content-Type may say multipart while the body is urlencoded.
- It ignores our status code and shows whatever body it gets to the person as the answer.
- It treats a connection that ends without an HTTP answer as a dead executor and forgets it.
- One record is one request at a time; several endpoints on one port under one name are several
  records, so N slots are N endpoints: /chat, /chat/1, /chat/2, ...
- register answers `Failed` when the endpoint is already there (or a field is missing); unregister
  removes every record of that name whose scheme, host and port match, whatever the path.
- A record is [endpoint, "READY" | "BUSY", history_id, user_id]; the table is shown as JSON inside
  the <textarea> of GET worker/debug.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from .errors import Refused
from .messages import rectify_chat_history, to_openai_chat_format
from .modelfile import Message, Modelfile, is_unicode

FORM_FIELDS = 100
TOO_MANY = f"The form has more than {FORM_FIELDS} fields."
EMPTY, BUSY = "Received empty request!", "Processing another request."
MALFORMED = "The chat history could not be read: it must be a JSON list of messages."
MALFORMED_MODELFILE = "The Modelfile of this bot could not be read: it must be a JSON list."
SUCCESS, FAILED = "Success", "Failed"
READY, RESERVED_NOBODY = "READY", -1
# Patterns are compiled at their first use: no start needs one of them.
LIST_CONTENT = r"(?is)<textarea[^>]*>(.*?)</textarea>"
BOUNDARY = r'(?i)boundary="?([^";,]{1,200})"?'
FIELD_NAME = r'\bname="([^"]{1,200})"'

Record = list[Any]  # [endpoint, state, history_id, user_id]
Table = dict[str, list[Record]]


class Chat(NamedTuple):
    """One request of a person: what was said, the bot's Modelfile, and the raw form."""

    history: list[Message]
    modelfile: Modelfile
    form: dict[str, str]


def parse_form(body: bytes, content_type: str) -> dict[str, str]:
    """Read an urlencoded or multipart form, whichever the body really is; the last value wins."""
    found = re.search(BOUNDARY, content_type)
    mark = b"--" + found[1].rstrip().encode("latin-1", "replace") if found else b""
    if mark and body.lstrip().startswith(mark):
        return _parse_multipart(b"\r\n" + body.lstrip(), b"\r\n" + mark)
    if b"=" not in body:
        return {}
    try:
        pairs = parse_qsl(
            body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FORM_FIELDS
        )
    except ValueError:
        raise Refused(400, TOO_MANY) from None
    return dict(pairs)


def _parse_multipart(body: bytes, mark: bytes) -> dict[str, str]:
    form = {}
    parts = body.split(mark, FORM_FIELDS + 2)
    if len(parts) > FORM_FIELDS + 2:  # what stands before the first mark and after the last
        raise Refused(400, TOO_MANY)
    for part in parts[1:]:
        head, found, content = part.partition(b"\r\n\r\n")
        name = re.search(FIELD_NAME, head.decode("utf-8", "replace"))
        if found and name:
            form[name[1]] = content.decode("utf-8", "replace")
    return form


def parse_chat(form: dict[str, str], accept_language: str | None) -> Chat:
    """Make a chat of a form; raises Refused with a sentence for the person if it is malformed."""
    if not form:
        raise Refused(400, EMPTY)
    try:
        history = json.loads(form.get("input") or "[]")
        well_formed = isinstance(history, list) and all(map(_is_entry, history))
    except (ValueError, RecursionError):
        well_formed = False
    if not well_formed:
        raise Refused(400, MALFORMED)
    try:
        modelfile = Modelfile.from_json(form.get("modelfile"))
    except (ValueError, RecursionError):
        raise Refused(400, MALFORMED_MODELFILE) from None
    for name, value in form.items():
        if name not in ("input", "modelfile"):
            modelfile.parameters[f"_{name}"] = value
    modelfile.parameters["_lang"] = accept_language
    return Chat(rectify_chat_history(to_openai_chat_format(history)), modelfile, form)


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("isbot"), bool):
        return False
    text = entry.get("msg", "")
    return text is None or (isinstance(text, str) and is_unicode(text))


def slot_path(path: str, index: int) -> str:
    """Return the path of one slot's endpoint: the first keeps the plain path."""
    return f"{path}/{index}" if index else path


def worker_url(kernel_url: str, version: str, verb: str) -> str:
    """Return the address of one of the Kernel's worker routes; a base path is kept."""
    return f"{kernel_url.rstrip('/')}/{version}/worker/{verb}"


def worker_form(name: str, endpoint: str) -> bytes:
    """Return the form that register and unregister take."""
    return urlencode({"name": name, "endpoint": endpoint}).encode()


def show_table(table: Table) -> bytes:
    """Show every record the way the Kernel's debug page does; the front end looks for "name"."""
    text = html.escape(json.dumps(table, indent=2, ensure_ascii=False), quote=False)
    return f"<!doctype html><title>Kernel</title><textarea>{text}</textarea>".encode()


def parse_table(page: str) -> Table:
    """Read the records out of a Kernel's debug page; raises ValueError if there are none."""
    found = re.search(LIST_CONTENT, page)
    table = json.loads(html.unescape(found[1])) if found else None
    if not isinstance(table, dict) or not all(isinstance(rows, list) for rows in table.values()):
        raise ValueError("the page holds no table of records")
    return table
