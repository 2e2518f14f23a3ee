"""What the chat page is told of executors that are registered, and of one that loads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kuwa_min.kernel.embedded import EmbeddedKernel
from tests.fakes.kuwa.executor_answers import Executor
from tests.kuwa_min.serving.test_routes import echo, running
from tests.support.programs import fetch

PROGRESS = {"what": "reading weights", "done": 3, "total": 8, "percent": 37, "seconds_left": 5.2}
LOADING = {
    "state": "loading",
    "access_codes": ["big"],
    "registered": False,
    "slots": 4,
    "busy_slots": 0,
    "waiting": 0,
    "progress": PROGRESS,
    "model": {"secret": "x"},
}


def statuses(kernel: EmbeddedKernel) -> Any:
    """Return what the page reads."""
    return json.loads(fetch(f"{kernel.url}page/status")[1])


def register(kernel: EmbeddedKernel, endpoint: str) -> None:
    """Register an endpoint."""
    form = {"name": "bot", "endpoint": endpoint}
    assert fetch(f"{kernel.url}v1.0/worker/register", form)[1] == "Success"


def test_an_executor_that_loads_is_told_until_it_is_registered() -> None:
    """With how far it is, and nothing that the page does not show."""
    own = dict(LOADING)
    with EmbeddedKernel("127.0.0.1", 0, own_status=lambda: json.dumps(own).encode()) as kernel:
        assert statuses(kernel) == [
            {
                "origin": "",
                "access_codes": ["big"],
                "registered": False,
                "progress": {"what": "reading weights", "percent": 37, "seconds_left": 5.2},
                "state": "loading",
                "slots": 4,
                "busy_slots": 0,
                "waiting": 0,
            }
        ]


@pytest.mark.parametrize(
    ("change", "count"),
    [({"state": "ready"}, 1), ({"registered": True}, 0), ({"state": "stopping"}, 0)],
)
def test_no_moment_between_loaded_and_registered_is_lost(
    change: dict[str, object], count: int
) -> None:
    """A message that was written while it loaded would find nothing then."""
    own = {**LOADING, **change}
    with EmbeddedKernel("127.0.0.1", 0, own_status=lambda: json.dumps(own).encode()) as kernel:
        assert len(statuses(kernel)) == count


def test_registered_executors_are_asked_once_each() -> None:
    """However many endpoints they have; one of Kuwa has no /status."""
    with EmbeddedKernel("127.0.0.1", 0) as kernel, Executor() as kuwas, running(echo) as ours:
        for endpoint in (ours.chat, f"{ours.chat}/1", f"{kuwas.url}/chat"):
            register(kernel, endpoint)
        (status,) = statuses(kernel)
        assert ours.chat.startswith(status["origin"])
        assert (status["state"], status["progress"]) == ("ready", None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"access_codes": 5}',
        b'{"access_codes": [], "waiting": "<b>", "progress": 3, "state": ' + b"[" * 9000,
        b'{"access_codes": ["' + b"x" * 70_000 + b'"]}',
    ],
)
def test_an_odd_status_is_none(body: bytes) -> None:
    """Whatever answers at a registered address."""
    with EmbeddedKernel("127.0.0.1", 0) as kernel, Executor() as one:
        one.answers_status, one.fields, one.body = True, b"Connection: close\r\n", body
        register(kernel, f"{one.url}/chat")
        assert statuses(kernel) == []
        assert [line for line, _ in one.requests] == ["GET /status"]
