"""The Kernel's wire: forms, chats, addresses and the table of records, byte by byte."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from kuwa_min.chat import bounded_json, catalog, modelfile
from kuwa_min.chat.modelfile import Modelfile
from kuwa_min.errors import HTTPError
from kuwa_min.httpd import messages
from kuwa_min.kernel import forms, protocol

URLENCODED = "application/x-www-form-urlencoded"
HISTORY = [{"isbot": False, "msg": "hi"}]


def refusal(form: dict[str, str]) -> tuple[int, str]:
    """Return status and sentence with which this chat is refused."""
    with pytest.raises(HTTPError) as refused:
        protocol.parse_chat_request(form, None)
    return refused.value.status, refused.value.message


# -- chats


def test_a_chat_is_history_modelfile_and_form() -> None:
    """Every part of the contract's form arrives where it belongs."""
    form = {
        "input": json.dumps(
            [
                {"isbot": True, "msg": "Welcome!"},
                {"isbot": False, "msg": "hi"},
                {"isbot": True, "msg": None},
                {"isbot": False, "msg": "嗨"},
            ]
        ),
        "modelfile": json.dumps(
            [
                {"name": "system", "args": '"Be kind."'},
                {"name": "parameter", "args": "llm_delay 0.5"},
            ]
        ),
        "name": "debug",
        "user_id": "1",
        "history_id": "2",
        "openai_token": "sk-o",
        "google_token": "g",
        "third_party_token": "t",
        "nim_token": "n",
        "user_token": "u",
    }
    chat = protocol.parse_chat_request(form, "zh-TW,zh;q=0.9", "http://web/v1.0/;http://localhost/")
    assert chat.history == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "嗨"},
    ]
    assert chat.modelfile.override_system_prompt == "Be kind."
    assert chat.modelfile.parameters["llm_"] == {"delay": 0.5}
    assert chat.modelfile.parameters["_"] == {
        "lang": "zh-TW,zh;q=0.9",
        "name": "debug",
        "user_id": "1",
        "history_id": "2",
        "openai_token": "sk-o",
        "google_token": "g",
        "third_party_token": "t",
        "nim_token": "n",
        "user_token": "u",
        "kuwa_api_base_urls": ["http://web/v1.0/", "http://localhost/"],
    }
    assert chat.form == form


def test_the_languages_come_from_the_header_alone() -> None:
    """A form field of that name does not replace Accept-Language."""
    chat = protocol.parse_chat_request({"input": "[]", "lang": "xx"}, "zh-TW")
    assert chat.modelfile.parameters["_lang"] == "zh-TW"


def test_no_accept_language_is_none() -> None:
    """The parameter is there all the same."""
    chat = protocol.parse_chat_request({"input": "[]"}, None)
    assert "_lang" in chat.modelfile.parameters
    assert chat.modelfile.parameters["_lang"] is None


@pytest.mark.parametrize(
    ("header", "urls"),
    [(None, None), ("", [""]), ("http://a/", ["http://a/"]), ("a;b", ["a", "b"])],
)
def test_the_addresses_of_the_api_come_from_the_header_alone(
    header: str | None, urls: list[str] | None
) -> None:
    """Nothing is None; an empty header is one empty address, as with Kuwa's own executor."""
    chat = protocol.parse_chat_request(
        {"input": "[]", "kuwa_api_base_urls": "http://evil/"}, None, header
    )
    assert chat.modelfile.parameters["_kuwa_api_base_urls"] == urls


def test_form_fields_win_over_the_bots_parameters() -> None:
    """A bot's author cannot pretend to be another user."""
    modelfile = json.dumps([{"name": "parameter", "args": "_user_id 1"}])
    form = {"input": "[]", "modelfile": modelfile, "user_id": "7"}
    assert protocol.parse_chat_request(form, None).modelfile.parameters["_user_id"] == "7"


@pytest.mark.parametrize("modelfile", [{}, {"modelfile": ""}, {"modelfile": "null"}])
def test_a_modelfile_may_be_absent_empty_or_null(modelfile: dict[str, str]) -> None:
    """All of them are no Modelfile."""
    chat = protocol.parse_chat_request({"input": json.dumps(HISTORY), **modelfile}, None)
    assert vars(chat.modelfile) == vars(Modelfile(parameters=chat.modelfile.parameters))
    assert chat.modelfile.parameters == {"_lang": None, "_kuwa_api_base_urls": None}


@pytest.mark.parametrize(
    "form", [{"name": "debug"}, {"input": ""}, {"input": " "}, {"input": "[]"}]
)
def test_a_chat_without_input_is_an_empty_history(form: dict[str, str]) -> None:
    """What to say to that is the backend's business."""
    assert protocol.parse_chat_request(form, None).history == []


def test_a_message_without_text_is_an_empty_one() -> None:
    """A missing msg does not break the chat."""
    chat = protocol.parse_chat_request({"input": '[{"isbot": false}]'}, None)
    assert chat.history == [{"role": "user", "content": ""}]


def test_an_empty_form_is_refused_with_the_old_words() -> None:
    """Users and scripts know this sentence."""
    assert refusal({}) == (400, "Received empty request!")


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "[",
        "{}",
        "null",
        '"text"',
        "7",
        "[7]",
        "[null]",
        '["text"]',
        "[[]]",
        '[{"isbot": false, "msg": "fine"}, "text"]',
        '{"0": {"isbot": false, "msg": "fine"}}',
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('[{"isbot":' * 50_000, id="deep objects"),
    ],
)
def test_a_malformed_history_is_refused_with_a_sentence(text: str) -> None:
    """400 and a short friendly sentence without any of the text in it."""
    status, sentence = refusal({"input": text})
    assert status == 400
    assert sentence == "The chat history could not be read: it must be a JSON list of messages."


@pytest.mark.parametrize(
    "text",
    [
        "FROM x",
        "7",
        '"text"',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_malformed_modelfile_is_refused_with_a_sentence(text: str) -> None:
    """400 and a short friendly sentence."""
    status, sentence = refusal({"input": "[]", "modelfile": text})
    assert status == 400
    assert sentence == "The Modelfile of this bot could not be read: it must be a JSON list."


def test_too_many_messages_or_commands_are_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is tiny on the wire is large in memory, and long to render."""
    monkeypatch.setattr(bounded_json, "MAX_VALUES", 100)
    monkeypatch.setattr(modelfile, "MAX_COMMANDS", 10)
    messages = json.dumps([{"isbot": False, "msg": "a"}] * 50)
    assert refusal({"input": messages}) == (400, catalog.TOO_MANY_MESSAGES)
    for command in ({"name": "system", "args": "x"}, None):
        fine, too_many = (json.dumps([command] * count) for count in (10, 11))
        assert protocol.parse_chat_request({"input": "[]", "modelfile": fine}, None)
        form = {"input": "[]", "modelfile": too_many}
        assert refusal(form) == (400, catalog.MODELFILE_TOO_LONG)
    assert refusal({"modelfile": f"[{'[],' * 100}0]"}) == (400, catalog.MODELFILE_TOO_LONG)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\ud83d\ude00", "\U0001f600"),
        (r"a\ud800b", "a\ufffdb"),
        (r"\udc00\ud800", "\ufffd\ufffd"),
    ],
)
def test_a_surrogate_pair_is_a_character_and_half_of_one_is_replaced(
    text: str, content: str
) -> None:
    """JSON may hold both."""
    chat = protocol.parse_chat_request({"input": f'[{{"isbot": false, "msg": "{text}"}}]'}, None)
    assert chat.history == [{"role": "user", "content": content}]


def test_a_history_of_every_database_is_read() -> None:
    """Ten turns with isbot as SQLite, MySQL and PostgreSQL give it, and what else occurs."""
    isbots = [False, 1, 0, True, "0", "1", None, "true", "", True]
    entries = [{"msg": str(at), "isbot": isbot} for at, isbot in enumerate(isbots)]
    chat = protocol.parse_chat_request({"input": json.dumps(entries), "history_id": "7"}, None)
    assert chat.history == [
        {"role": ("user", "assistant")[at % 2], "content": str(at)} for at in range(10)
    ]


SYSTEM_AND_QUESTION = [{"isbot": True, "msg": "Be brief."}, {"isbot": False, "msg": "hi"}]


def test_a_leading_message_of_the_assistant_is_an_api_clients_system_message() -> None:
    """The front end has turned its role into the assistant's."""
    form = {"input": json.dumps(SYSTEM_AND_QUESTION), "history_id": "-7"}
    assert protocol.parse_chat_request(form, None).history == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.parametrize(
    "history_id", [{"history_id": "7"}, {"history_id": "0"}, {"history_id": "x"}, {}]
)
def test_a_leading_message_of_the_assistant_in_a_room_is_dropped(
    history_id: dict[str, str],
) -> None:
    """The first message of a room, a bot's welcome, is for the user."""
    form = {"input": json.dumps(SYSTEM_AND_QUESTION), **history_id}
    assert protocol.parse_chat_request(form, None).history == [{"role": "user", "content": "hi"}]


def test_the_recorded_request_of_a_real_front_end_is_read() -> None:
    """Of Multi-Chat 0.4 by way of the Kernel: SQLite's isbots, escaped slashes, 0.4's commands."""
    entries = (
        r'[{"msg":"","isbot":1},{"msg":"ab","isbot":true},{"msg":"\u4e2d http:\/\/h\/","isbot":0}]'
    )
    modelfile = r'[{"name":"from","args":".model\/a"},{"name":"before-prompt","args":"say: "}]'
    form = {"input": entries, "modelfile": modelfile, "user_id": "3", "history_id": "7"}
    parsed = forms.parse_form(urlencode(form).encode(), URLENCODED)
    chat = protocol.parse_chat_request(parsed, "zh_tw", "")
    assert chat.history == [{"role": "user", "content": "\u4e2d http://h/"}]
    assert chat.modelfile.before_prompt == "say: "
    assert chat.modelfile.process_bot == ".model/a"


# -- answers, addresses and records


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (catalog.EMPTY_REQUEST, b'{"msg":"Received empty request!"}'),
        (catalog.ENDPOINT_BUSY, b'{"msg":"Processing another request."}'),
        ("Aborted", b'{"msg":"Aborted"}'),
        ('say "嗨"', '{"msg":"say \\"嗨\\""}'.encode()),
    ],
)
def test_a_sentence_is_wrapped_as_the_kernels_users_know_it(text: str, data: bytes) -> None:
    """A JSON object with one key, in UTF-8."""
    assert messages.json_message(200, text).body == data


@pytest.mark.parametrize(
    ("path", "index", "result"),
    [("/chat", 0, "/chat"), ("/chat", 1, "/chat/1"), ("/a/b", 12, "/a/b/12")],
)
def test_endpoints_have_paths_of_their_own(path: str, index: int, result: str) -> None:
    """The first endpoint keeps the plain path."""
    assert protocol.endpoint_path(path, index) == result


@pytest.mark.parametrize(
    ("kernel_url", "action", "url"),
    [
        ("http://127.0.0.1:9000/", "register", "http://127.0.0.1:9000/v1.0/worker/register"),
        ("http://127.0.0.1:9000", "unregister", "http://127.0.0.1:9000/v1.0/worker/unregister"),
        ("https://k/base", "list", "https://k/base/v1.0/worker/list"),
        ("https://k/base/", "debug", "https://k/base/v1.0/worker/debug"),
        ("https://k/BOX//", "debug", "https://k/BOX/v1.0/worker/debug"),
    ],
)
def test_the_kernels_routes_stand_below_its_base_url(
    kernel_url: str, action: str, url: str
) -> None:
    """With or without a slash at the end; a base path is kept."""
    assert protocol.worker_url(kernel_url, "v1.0", action) == url


def test_register_and_unregister_take_name_and_endpoint() -> None:
    """An urlencoded form of exactly these two fields."""
    form = protocol.worker_form("名字 & co", "http://[::1]:80/chat")
    assert parse_qsl(form.decode("ascii"), strict_parsing=True) == [
        ("name", "名字 & co"),
        ("endpoint", "http://[::1]:80/chat"),
    ]
    plain = protocol.worker_form("debug", "http://h:1/chat")
    assert plain == b"name=debug&endpoint=http%3A%2F%2Fh%3A1%2Fchat"


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"debug": []},
        {"debug": [["http://h:1/chat", "READY", -1, -1], ["http://h:1/chat/1", "BUSY", 7, 1]]},
        {"</textarea><script>": [["http://h:1/a?b&amp;c", "READY", -1, -1]], "名字": []},
    ],
)
def test_a_table_that_is_shown_can_be_read(table: dict[str, list[Any]]) -> None:
    """Nothing in a name ends the page's text early."""
    page = protocol.render_table(table).decode()
    assert protocol.parse_table(page) == table
    assert page.count("</textarea>") == 1
    assert "<script>" not in page


def test_a_page_shows_the_names_as_they_are() -> None:
    """The front end looks for "name" between quotes; a person reads line by line."""
    page = protocol.render_table({"名字 & <b>": [["http://h:1/chat", "READY", -1, -1]]})
    assert page.decode() == (
        "<!doctype html><title>Kernel</title><textarea>{\n"
        '  "名字 &amp; &lt;b&gt;": [\n    [\n      "http://h:1/chat",\n      "READY",\n'
        "      -1,\n      -1\n    ]\n  ]\n}</textarea>"
    )


@pytest.mark.parametrize("space", ["", "\r\n "])
def test_the_bare_json_of_0_4_is_read(space: str) -> None:
    """Records as lists or as objects; text that looks like a page's is a name."""
    page = """{"<textarea>{}</textarea>": [["http://h:1/chat", "READY", -1, -1]], "名字": [
      {"job_user_id": "1", "job_history_id": "7", "status": "BUSY", "endpoint": "http://h:2/chat"},
      {"endpoint": "http://h:3/chat", "status": "READY"}]}"""
    assert protocol.parse_table(space + page) == {
        "<textarea>{}</textarea>": [["http://h:1/chat", "READY", -1, -1]],
        "名字": [["http://h:2/chat", "BUSY", "7", "1"], ["http://h:3/chat", "READY", None, None]],
    }


def test_the_real_kernels_page_is_read() -> None:
    """Attributes, line ends and any case do not matter."""
    page = """<!DOCTYPE html><h1>Debug</h1><form method="post">
    <TextArea name="data" rows="10">{&#34;debug&#34;: [[&#34;http://h:1/chat&#34;, "READY",
    -1, -1]]}
    </TextArea><input type="submit"></form>"""
    assert protocol.parse_table(page) == {"debug": [["http://h:1/chat", "READY", -1, -1]]}


@pytest.mark.parametrize(
    "page",
    [
        "",
        "Not found",
        "<textarea>",
        "<textarea></textarea>",
        "<textarea>not JSON</textarea>",
        "<textarea>[]</textarea>",
        "<textarea>null</textarea>",
        '<textarea>{"debug": 7}</textarea>',
        '<textarea>{"debug": null}</textarea>',
        '{"debug": ["http://h:1/chat"]}',
    ],
)
def test_a_page_without_a_table_is_a_value_error(page: str) -> None:
    """The caller knows that it knows nothing."""
    with pytest.raises(ValueError):
        protocol.parse_table(page)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("[]", "the page holds no table of records"),
        ('{"debug": {}}', "the page holds no table of records"),
        ('{"debug": [[["x"]]]}', "a record is neither a list nor an object with an endpoint"),
        ('{"debug": [7]}', "a record is neither a list nor an object with an endpoint"),
    ],
)
def test_json_that_is_no_table_is_named(page: str, reason: str) -> None:
    """An operator reads the reason in the log."""
    with pytest.raises(ValueError, match=f"^{reason}$"):
        protocol.parse_table(page)
