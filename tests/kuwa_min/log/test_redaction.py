"""What may be said: no secret in any shape, and nothing of what people write."""

from __future__ import annotations

import pytest

from kuwa_min.log import redaction

KEY = "sk-proj-0123456789abcdefABCDEF"
OTHER = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"  # of a service whose keys have no sign


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin every test without secrets, and keep what it hides from the others."""
    monkeypatch.setattr(redaction, "_secrets", set())
    monkeypatch.setattr(redaction, "_shows_content", False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"key {KEY}, it is", "key ***, it is"),
        (f"(gsk_{OTHER})", "(***)"),
        (f"hf_{OTHER}{OTHER}", "***"),
        (f"AIza{OTHER}", "***"),
        (f"Authorization: Bearer {OTHER}", "Authorization: Bearer ***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_1", "***"),
        ("https://me:pass@one.test/a", "https://***@one.test/a"),
        ("https://token@one.test/a", "https://***@one.test/a"),
        ("http://one.test/?a=b&api_key=abc&c=d", "http://one.test/?a=b&api_key=***&c=d"),
        ("http://one.test/?Key=abc#d", "http://one.test/?Key=***#d"),
        ("http://one.test/?access-token=abc", "http://one.test/?access-token=***"),
        ("loading /models/hf_TinyLlama-1.1B-Chat-v1.0", None),
        ("write to me@one.test about https://one.test/a?page=2", None),
        ("the task-based disk-backed risk", None),
        ("monkey=banana, key=value", None),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, said: str | None) -> None:
    """And ordinary words are not."""
    assert redaction.clean(text) == (text if said is None else said)


def test_a_long_text_takes_no_long_time() -> None:
    """Which it would if a part of it were looked at again for each of its characters."""
    for unit in ("://", "sk-", "a", "?key", "*", "eyJ.", "eyJ-", "Bearer ", "-"):
        text = unit * (20_000 // len(unit))
        assert len(redaction.clean_service(text, [KEY])) <= len(text)


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *(("api_key", True), ("--api-key", True), ("OPENAI_API_KEY", True), ("HF_TOKEN", True)),
        *(("db_password", True), ("apikey", True), ("stop_keys", True), ("secret", True)),
        *(("tls_key", False), ("api_key_file", False), ("max_tokens", False), ("tokenizer", False)),
        *(("monkey", False), ("keyboard", False), ("", False)),
    ],
)
def test_options_and_variables_are_secret_by_their_names(name: str, is_secret: bool) -> None:
    """Files are not, and neither are numbers of tokens."""
    assert redaction.is_secret_name(name) == is_secret


def test_options_and_the_environment_hide_their_secrets() -> None:
    """Keys, the random path of --executor_path auto, passwords of proxies, also as in a URL."""
    redaction.hide_options(
        {"api_key": OTHER, "executor_path": f"/{OTHER[::-1]}/chat", "model": "gpt-4o", "n_key": 3}
    )
    redaction.hide_environment(
        {
            "MY_TOKEN": "t0ken/of+mine",
            "https_proxy": "http://me:pa%2Fss-word@proxy.test:3128",
            "HTTP_PROXY": "you:another-word@proxy.test",
            "no_proxy": "one.test",
            "SOME_KEY": "yes",
            "HOME": "/home/me",
        }
    )
    text = f"{OTHER} /{OTHER[::-1]}/chat t0ken/of+mine t0ken%2Fof%2Bmine pa/ss-word pa%2Fss-word"
    assert redaction.clean(f"{text} another-word") == "*** /***/chat *** *** *** *** ***"
    assert redaction.clean("yes gpt-4o /home/me one.test") == "yes gpt-4o /home/me one.test"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--api_key", OTHER, "x"], f"unrecognized: {OTHER} x", "unrecognized: *** x"),
        (["--api-key=some-key"], "unrecognized: --api-key=some-key", "unrecognized: --api-key=***"),
        (["--apikey", "short1"], "unrecognized: --apikey short1", "unrecognized: --apikey ***"),
        (["--api_kye", "short1"], "unrecognized: --api_kye short1", "unrecognized: --api_kye ***"),
        (["-api_key", "short1"], "unrecognized: -api_key short1", "unrecognized: -api_key ***"),
        (["--API_KEY=short1"], "unrecognized: --API_KEY=short1", "unrecognized: --API_KEY=***"),
        (["--api_token=a=b"], "unrecognized: --api_token=a=b", "unrecognized: --api_token=***"),
        ([OTHER], f"unknown executor '{OTHER}'", "unknown executor '***'"),
        ([f"--model={OTHER}"], f"bad {OTHER}", "bad ***"),
        ([KEY], f"unknown executor '{KEY}'", "unknown executor '***'"),
        (["api_key=secret1"], "unrecognized: api_key=secret1", "unrecognized: api_key=***"),
        (["api_key", "secret1"], "unrecognized: api_key secret1", "unrecognized: api_key ***"),
        (["--apikey:secret1"], "unrecognized: --apikey:secret1", "unrecognized: --apikey:***"),
        (["\u2014api_key", "secret1"], "unrecognized: secret1", "unrecognized: ***"),
        (["--api", "secret1"], "unrecognized: --api secret1", "unrecognized: --api ***"),
        (["--api", "on"], "--api on needs a token, not on", None),
        (["--api", "loopback", "--prot"], "unrecognized: --prot loopback", None),
        (["--auth=secret1"], "unrecognized: --auth=secret1", "unrecognized: --auth=***"),
        (["chatgpt --api_key secret1"], "unknown: --api_key secret1", "unknown: --api_key ***"),
        ([f"chatgpt --x {OTHER}"], f"unknown: --x {OTHER}", "unknown: --x ***"),
        (['{"api_key": "secret1"}'], "unknown: secret1", "unknown: ***"),
        (["https://api:8000/v1"], "no address https://api:8000/v1", None),
        (["the key is blue"], "not 'the key is blue'", None),
        (["--port", "many"], "a number, not 'many'", None),
        (["--max_tokens", "many"], "a number, not 'many'", None),
        (["--api_key", "--port", "many"], "a number, not 'many'", None),
        (["--tls_key", "/etc/key.pem"], "cannot use /etc/key.pem", None),
        (["--api_key"], "expected one argument", None),
    ],
)
def test_errors_about_a_command_line_repeat_no_key(
    words: list[str], error: str, said: str | None
) -> None:
    """However its option is written, and also without one."""
    assert redaction.clean_command_line(error, words) == (error if said is None else said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"Incorrect API key provided: {OTHER}.", "Incorrect API key provided: ***."),
        ("Incorrect API key: sk-pr*****************wxyz.", "Incorrect API key: ***"),
        ("key 0f1e****************e1f0 is\nwrong", "key *** is wrong"),
        ("key 0f1e...e1f0 is wrong", "key *** is wrong"),
        ("key 0f1e…e1f0 is wrong", "key *** is wrong"),
        ("key '0f1e2d3c' is wrong", "key *** is wrong"),
        ("the key that ends in c3d2e1f0", "the key that ends in ***"),
        ("the key that ends in ...e1f0", "the key that ends in ***"),
        ("sk-proj-01...CDEF is wrong", "*** is wrong"),
        ("wait... or a...b, 1...2", "wait... or a...b, 1...2"),
        ("**bold** words", "*** words"),
    ],
)
def test_a_service_that_repeats_a_key_in_part_does_not_show_it(text: str, said: str) -> None:
    """Abbreviated in every way that services have."""
    assert redaction.clean_service(text, [OTHER, ""]) == said


def test_content_is_told_by_its_length_unless_it_is_allowed() -> None:
    """And then its beginning, as a literal of Python."""
    assert redaction.content("私\n") == "(2 characters)"
    redaction.allow_content(True)
    assert redaction.content("私\n") == r"'私\n'"
    assert redaction.content("a" * 81) == f"'{'a' * 80}'..."
