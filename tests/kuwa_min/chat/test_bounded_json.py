"""JSON with too many values is refused before it is parsed; long texts never are."""

from __future__ import annotations

import json

import pytest

from kuwa_min.chat import bounded_json

MAX = 50


@pytest.fixture(autouse=True)
def few_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow few values."""
    monkeypatch.setattr(bounded_json, "MAX_VALUES", MAX)


@pytest.mark.parametrize(
    "text", ["[],", "{},", "1,", '"a",', '"",', "[[],[]],", '{"a":1,"b":{}},', "null ,"]
)
def test_a_list_of_many_values_is_refused(text: str) -> None:
    """Whatever they are, and although each is tiny."""
    with pytest.raises(bounded_json.TooManyValues):
        bounded_json.loads(f"[{text * MAX}0]")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_deep_nesting_is_refused(opening: str) -> None:
    """Before the parser sees it."""
    with pytest.raises(bounded_json.TooManyValues):
        bounded_json.loads(opening * (MAX + 1))


@pytest.mark.parametrize(
    "text",
    [
        ",[{" * MAX,
        'say "a", "b", {"c": [1]}' * MAX,
        "back\\slash\\\\, " * MAX,
        '\\",' * MAX,
        '"' * 5 * MAX,
        "你好，,[" * MAX,
        ",\\",
    ],
)
def test_what_stands_in_a_string_is_no_value(text: str) -> None:
    """As it is and escaped, beside few values and beside too many."""
    for escaped in (True, False):
        inside = json.dumps(text, ensure_ascii=escaped)
        assert bounded_json.loads(f"[{inside},{inside}]") == [text, text]
        with pytest.raises(bounded_json.TooManyValues):
            bounded_json.loads(f"[{inside}{',0' * MAX}, {inside}]")


@pytest.mark.parametrize("text", ["", "nonsense", "[1", '["a', "[1]]", '"\\'])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    """As from json itself."""
    with pytest.raises(json.JSONDecodeError):
        bounded_json.loads(text)


def test_a_number_of_too_many_digits_is_a_value_error() -> None:
    """Early versions of Python 3.10 take hours for a million; exponents are no digits."""
    assert bounded_json.loads("[" + "9" * 1000 + "]") == [10**1000 - 1]
    assert bounded_json.loads("[1e9]") == [1e9]
    with pytest.raises(ValueError, match="too long"):
        bounded_json.loads("[" + "9" * 1001 + "]")
