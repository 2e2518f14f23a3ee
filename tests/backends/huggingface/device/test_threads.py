"""How many threads torch computes with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="the huggingface backend needs it")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_before")]


@pytest.fixture
def as_before() -> Iterator[None]:
    """Leave torch as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def made(monkeypatch: pytest.MonkeyPatch, variable: str, wanted: int | None, quota: int) -> object:
    """Return (the threads, those that torch computes with, how many numbers are compared)."""
    import torch

    from backends._local.machine import processors
    from backends.huggingface.device.threads import TorchThreads

    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(processors, "default_threads", lambda: quota)
    monkeypatch.setattr(processors, "candidates", lambda: [1, 2])
    threads = TorchThreads(wanted)
    return threads.chosen, torch.get_num_threads(), threads.candidates


@pytest.mark.parametrize(
    ("variable", "wanted", "quota", "expected"),
    [
        ("", None, 8, ((2, 2), 2, [1, 2])),  # torch's own number
        ("", None, 1, ((1, 1), 1, [1, 2])),  # a container's quota
        ("2", None, 1, ((2, 2), 2, [])),  # the operator's, for all programs
        ("2", 1, 8, ((1, 1), 1, [])),  # and for this one
    ],
)
def test_the_number_comes_from_option_environment_or_machine(
    monkeypatch: pytest.MonkeyPatch, variable: str, wanted: int | None, quota: int, expected: object
) -> None:
    """Only what was left to the program is compared."""
    assert made(monkeypatch, variable, wanted, quota) == expected
