"""Say how much is measured of a model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """A model's name, the rounds of every question and the tokens of every answer.

    `aborts` is how often each kind of abort is timed, `turns` how often each slot's next turn.
    """

    model: str
    rounds: int
    tokens: int
    aborts: int
    turns: int


TOKENS = {"tiny": 128, "small": 40, "1b": 256, "7b": 256}
SMALL, LARGE = ("tiny", "small"), ("1b", "7b")  # for a processor, and for a graphics card
ABORTS = 9


def full(model: str, rounds: int) -> Plan:
    """Return what gives medians to rely on."""
    return Plan(model, rounds, TOKENS[model], aborts=max(ABORTS, rounds), turns=min(3, rounds))


def quick(model: str) -> Plan:
    """Return what gives a first impression."""
    return Plan(model, rounds=1, tokens=24, aborts=3, turns=1)
