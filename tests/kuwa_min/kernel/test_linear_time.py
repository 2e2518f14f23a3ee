"""A request of four times the size takes about four times the time, whatever it is made of."""

from __future__ import annotations

import time

import pytest

from kuwa_min.chat import bounded_json, modelfile
from kuwa_min.chat.prompt import compose
from kuwa_min.errors import AnswerError, HTTPError
from kuwa_min.kernel import forms, protocol
from tests.support.programs import until

pytestmark = pytest.mark.slow  # only time shows it, and little of it shows nothing

SIZE, MANY = 128 << 10, 512 << 10  # bytes of the smaller request: a long text, many short ones
MOST = 9.0  # times as long for four times the size; quadratic time would make it 16

FILLINGS = {
    "escapes": "%41",
    "Chinese": "%E4%BD%A0",
    "plus signs": "+",
    "notes": "<<<WARNING>>>a",
    "closed notes": "a <<<WARNING>>>a<<</WARNING>>> ",
    "our sentences": "[ERROR] ",
    "quotes": '\\"',
    "quotes and blanks": '\\" ',
    "quotes and comments": '\\" #',
    "triple quotes": '\\"\\"\\" ',
    "surrogates": "\\ud800",
    "blanks": " \\n",
    "digits": "1",
    "backslashes": "\\\\",
}
# Where a long text may stand, and what may be repeated with a short one.
LONG = {
    "message": 'input=[{"isbot":true,"msg":"aTEXT"},{"msg":"TEXT"}]',
    "system": 'modelfile=[{"name":"system","args":"\\"TEXT"}]',
    "example": 'modelfile=[{"name":"message","args":"user TEXT"}]',
    "parameter": 'modelfile=[{"name":"parameter","args":"llm_a TEXT"}]',
    "unknown command": 'modelfile=[{"name":"TEXT","args":"x"}]',
}
REPEATED = {
    "messages": 'input=[{"msg":"TEXT"},{}]',
    "systems": 'modelfile=[{"name":"system","args":"TEXT"},0]',
    "examples": 'modelfile=[{"name":"message","args":"user TEXT"},0]',
    "stop words": 'modelfile=[{"name":"parameter","args":"stop TEXT"},0]',
}


def body_of(place: str, filling: str, size: int) -> bytes:
    """Return a request of about this size."""
    if place in LONG:
        return LONG[place].replace("TEXT", filling * (size // len(filling))).encode()
    opening, bracket, items = REPEATED[place].partition("[")
    item, last = items.replace("TEXT", filling * 3).rsplit(",", 1)
    return f"{opening}{bracket}{f'{item},' * (size // len(item))}{last}".encode()


def seconds(body: bytes) -> float:
    """Return the time of this thread that a request takes up to its prompt."""
    started = time.thread_time()
    try:
        chat = protocol.parse_chat_request(forms.parse_form(body, ""), None)
        compose([*chat.history, {"role": "user", "content": "x"}], chat.modelfile)
    except (HTTPError, AnswerError):
        pass
    return time.thread_time() - started


CASES = [
    *((place, filling, SIZE) for place in LONG for filling in FILLINGS),
    *((place, filling, MANY) for place in REPEATED for filling in ("digits", "quotes and blanks")),
]


@pytest.mark.parametrize(("place", "filling", "size"), CASES)
def test_a_request_takes_linear_time(
    place: str, filling: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beyond the bounds on what it may hold."""
    monkeypatch.setattr(bounded_json, "MAX_VALUES", 1 << 30)
    monkeypatch.setattr(modelfile, "MAX_COMMANDS", 1 << 30)
    small, large = (body_of(place, FILLINGS[filling], one) for one in (size, 4 * size))
    until(lambda: seconds(large) < MOST * max(seconds(small), 0.001))
