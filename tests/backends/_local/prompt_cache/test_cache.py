"""What is parked, what is restored, and what goes first."""

from __future__ import annotations

from typing import Any

import pytest

from backends._local.prefix_match import MIN_PREFIX, match_prefix
from backends._local.prompt_cache import parked_states as module
from backends._local.prompt_cache.cache import MIN_LOST, SEAM, PromptCache
from backends._local.prompt_cache.parked import TOKEN_BYTES, ParkedState, as_bytes

from .token_slots import Sequence, States

LENGTH = 100  # tokens of a chat
SIZE = 2 * LENGTH * TOKEN_BYTES  # bytes of its state and tokens
GB = 10**9


def chat(number: int, length: int = LENGTH) -> list[int]:
    """Return the tokens of a chat, of which no other one has the first."""
    return [number * 10_000 + at for at in range(length)]


class Engine:
    """Slots that chats take in turn, as schedulers let them; counts the tokens to prefill."""

    def __init__(self, slots: int, max_bytes: int = GB, *, can_cut: bool = True) -> None:
        self.sequences = [Sequence(slot) for slot in range(slots)]
        self.states = States(self.sequences, can_cut=can_cut)
        self.free = 10 * GB
        self.cache = PromptCache(max_bytes, free=lambda: self.free)
        self.cache.attach(self.states)
        self.clock = 0

    def turn(self, prompt: list[int], cost: int = 0, adapters: str = "") -> int:
        """Compute a prompt and leave it in its slot; return how many tokens were prefilled."""
        live = match_prefix(
            self.sequences, prompt, can_grow=False, min_prefix=MIN_PREFIX, adapters=adapters
        )
        match, parked = self.cache.match(
            self.sequences,
            prompt,
            live,
            can_grow=False,
            tokens_in=lambda _: cost,
            adapters=adapters,
        )
        sequence = match.slot
        assert sequence is not None
        self.cache.park(sequence, prompt, adapters)
        cached = match.cached
        if parked is not None:
            cached = self.cache.restore(sequence, parked, match.cached)
            assert sequence.tokens == prompt[:cached]
        elif match.source is None:
            cached = self.states.kept(sequence.slot, match.cached)
        self.clock += 1
        sequence.tokens, sequence.adapters = list(prompt), adapters
        sequence.last_used = self.clock
        sequence.prompt_length = len(prompt) + SEAM
        return len(prompt) - cached

    def parked(self) -> list[int]:
        """Return the numbers of the parked chats, the least recently used first."""
        entries = self.cache._parked.all()
        return [memoryview(entry.tokens).cast("i")[0] // 10_000 for entry in entries]


@pytest.mark.parametrize("can_cut", [True, False])
def test_more_chats_than_slots_take_turns(can_cut: bool) -> None:
    """Each turn goes on from the last one, whatever other chats came between."""
    engine = Engine(1, can_cut=can_cut)
    for turn in range(1, 4):
        for number in range(3):
            read = engine.turn(chat(number, turn * LENGTH))
            assert read == LENGTH
    facts = engine.cache.facts()
    assert (facts["hits"], facts["restored_tokens"]) == (6, 3 * LENGTH + 3 * 2 * LENGTH)


def test_without_a_cache_all_is_prefilled_again() -> None:
    """As before there was one."""
    engine = Engine(1, max_bytes=0)
    assert [engine.turn(chat(number)) for number in (1, 2, 1)] == [LENGTH] * 3
    assert engine.cache.facts()["entries"] == engine.states.saved == 0


def test_the_least_recently_used_state_goes_first() -> None:
    """A use is a restore, and no less a slot that is overwritten once more."""
    engine = Engine(1, max_bytes=3 * SIZE)
    for number in (1, 2, 3, 4):
        engine.turn(chat(number))
    assert engine.parked() == [1, 2, 3]
    engine.turn([*chat(1), 1])  # 4 is parked, 2 goes
    assert engine.parked() == [3, 1, 4]
    engine.turn([*chat(1), 2])  # 1 is in its slot: nothing is moved
    assert engine.parked() == [3, 1, 4]
    engine.turn(chat(5))  # 1 has grown by a token, so that two go
    assert engine.parked() == [4, 1]
    assert engine.cache.facts()["bytes"] == 2 * SIZE + 2 * TOKEN_BYTES


def test_a_state_that_is_pushed_out_while_it_is_wanted_is_restored_all_the_same() -> None:
    """With room for one, two chats take turns."""
    engine = Engine(1, max_bytes=SIZE)
    engine.turn(chat(1))
    engine.turn(chat(2))
    assert engine.turn([*chat(1)]) == 1
    assert engine.turn([*chat(2)]) == 1
    assert engine.parked() == [1]


def test_a_later_turn_replaces_the_earlier_one() -> None:
    """It serves whatever the earlier one would."""
    engine = Engine(1)
    for prompt in (chat(1), chat(2), chat(1, 2 * LENGTH), chat(2, 2 * LENGTH), chat(3)):
        engine.turn(prompt)
    assert engine.cache.facts()["entries"] == 2
    assert engine.turn([*chat(1)[:50], 7]) == 1, "a part of it"


def test_a_chat_that_outgrows_the_memory_keeps_its_beginning() -> None:
    """What is parked of it serves still."""
    engine = Engine(1, max_bytes=2 * SIZE + 1)
    for number, length in ((0, LENGTH), (1, LENGTH), (0, 3 * LENGTH), (1, LENGTH)):
        engine.turn(chat(number, length))
    assert engine.turn(chat(0, 3 * LENGTH)) == 2 * LENGTH


def test_where_states_cannot_be_cut_each_serves_what_begins_with_it() -> None:
    """So that the earlier one is kept, too."""
    engine = Engine(1, can_cut=False)
    for prompt in (chat(1), chat(2), chat(1, 2 * LENGTH), chat(2, 2 * LENGTH), chat(3)):
        engine.turn(prompt)
    assert engine.cache.facts()["entries"] == 4
    assert engine.turn([*chat(1, 150), 7]) == 51
    assert engine.turn([*chat(1)[:50], 7]) == 51


def test_a_slot_that_is_as_good_is_preferred() -> None:
    """Nothing is moved, and a slot counts as what it really keeps."""
    engine = Engine(2)
    for number in (1, 2, 3):
        engine.turn(chat(number))
    assert engine.turn([*chat(3), 5]) == 1
    assert engine.cache.facts()["hits"] == 0
    engine = Engine(2, can_cut=False)
    for prompt in (chat(1, 60), chat(2), chat(3), chat(1, 90)):
        engine.turn(prompt)
    assert engine.turn([*chat(1, 80), 5]) == 21, "the slot has 80 of them, and cannot be cut"


@pytest.mark.parametrize(("cost", "read"), [(0, 1), (LENGTH - 1, LENGTH)])
def test_what_is_read_faster_than_restored_is_read(cost: int, read: int) -> None:
    """On a fast device, a short prefix."""
    engine = Engine(1)
    engine.turn(chat(1, LENGTH - 2))
    engine.turn(chat(2))
    prompt = [*chat(1, LENGTH - 2), 7]
    assert engine.turn([*prompt, 7], cost) == read + (1 if read == 1 else 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_longest_beginning_counts(order: tuple[int, ...]) -> None:
    """Of states that begin alike, in whatever order they were used."""
    engine = Engine(1)
    chats = chat(1), [*chat(1, 60), *chat(2, 40)], [*chat(1, 80), *chat(3, 40)]
    for number in order:
        engine.turn(chats[number])
    engine.turn(chat(9))
    prompts = [*chat(1, 90), 5], [*chat(1, 60), *chat(2, 9), 5], [*chat(1, 80), *chat(3, 30), 5]
    assert [engine.cache.find(prompt).length for prompt in prompts] == [90, 69, 110]
    assert engine.cache.find([*chat(1, 70), 5]).length == 70
    assert engine.cache.find(chat(4)).parked is None


def test_little_is_not_parked() -> None:
    """It is prefilled again: a few tokens of an edit, or of a short chat."""
    engine = Engine(1)
    engine.turn(chat(1, MIN_LOST))
    engine.turn(chat(2, LENGTH))
    engine.turn([*chat(2, LENGTH - MIN_LOST), 7])
    assert engine.states.saved == 0
    engine.turn(chat(3))
    assert engine.states.saved == 1
    assert MIN_PREFIX < MIN_LOST


@pytest.mark.parametrize("tokens", [[], [1]])
def test_the_last_token_of_a_prompt_is_computed(tokens: list[int]) -> None:
    """Its logits are wanted."""
    engine = Engine(1)
    engine.turn(chat(1))
    engine.turn(chat(2))
    assert engine.cache.find([*chat(1), *tokens]).length == LENGTH - 1 + len(tokens)


def test_chats_with_other_adapters_share_nothing() -> None:
    """The same tokens are parked once for each of them, and found by their own chats alone."""
    engine = Engine(1)
    assert [engine.turn(chat(1), adapters=one) for one in ("", "a*1", "b*1")] == [LENGTH] * 3
    assert engine.cache.facts()["entries"] == 2, "the slot was parked before it was overwritten"
    longer = [*chat(1), 1]
    assert engine.cache.find(longer, "c*1").parked is None
    assert [engine.turn(longer, adapters=one) for one in ("a*1", "", "b*1")] == [1] * 3
    assert engine.turn(longer, adapters="a*0.5") == LENGTH + 1
    found = engine.cache.find([*longer, 1], "a*1")
    assert found.length == LENGTH + 1
    assert found.parked is not None
    assert found.parked.adapters == "a*1"


def test_memory_that_runs_out_forgets_parked_chats(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing else: the chat goes on."""
    engine = Engine(1)
    for number in (1, 2):
        engine.turn(chat(number))
    engine.states.failures = 1
    assert engine.turn(chat(3)) == LENGTH
    assert engine.parked() == []
    assert engine.cache.facts()["bytes"] == 0
    assert caplog.text.count("1 parked chats are forgotten") == 1
    assert engine.turn(chat(4)) == LENGTH
    assert engine.turn([*chat(3), 1]) == 1
    engine.cache.drop_all()
    assert caplog.text.count("are forgotten") == 1


def test_a_state_that_does_not_fit_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """And its chat is read from the beginning."""
    engine = Engine(1)
    engine.turn(chat(1))
    engine.turn(chat(2))
    (entry,) = engine.cache._parked.all()
    entry.state = b"1234"
    assert engine.turn([*chat(1), 1]) == LENGTH + 1
    assert 1 not in engine.parked()
    assert "could not be restored" in caplog.text


def test_where_memory_is_short_the_cache_is_smaller() -> None:
    """Others need it more."""
    engine = Engine(1)
    for number in (1, 2, 3):
        engine.turn(chat(number))
    engine.free = module.RESERVE + SIZE - 1
    engine.turn(chat(4))
    assert engine.parked() == [2, 3]
    engine.free = 0
    engine.turn(chat(5))
    assert engine.parked() == [2, 3], "there is room for no other"


def test_there_are_not_so_many_that_finding_one_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared with each prompt."""
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    engine = Engine(1)
    for number in range(1, 7):
        engine.turn(chat(number))
    assert engine.parked() == [3, 4, 5]


def test_what_comes_from_disk_is_used_least() -> None:
    """As far as there is room; what is parked again meanwhile counts once."""
    engine = Engine(1, max_bytes=3 * SIZE)
    for number in (1, 2):
        engine.turn(chat(number))
    states, read = (
        engine.cache._parked,
        [ParkedState(as_bytes(chat(n)), bytes(400)) for n in (1, 8, 9)],
    )
    assert [states.add(one) for one in (*read[:2], read[1])] == [True] * 3
    assert engine.parked() == [8, 1]
    engine.turn(chat(3))
    assert not states.add(read[2])
    assert (engine.parked(), states.bytes) == ([8, 1, 2], 3 * SIZE)


class Files:
    """What the cache tells its files."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []

    def start(self, add: Any, max_bytes: int) -> None:
        """Begin."""
        self.said.append(("start", max_bytes))

    def __getattr__(self, name: str) -> Any:
        """Note a call."""

        def note(*entries: Any) -> None:
            numbers = [memoryview(one.tokens).cast("i")[0] // 10_000 for one in entries]
            self.said.append((name, *numbers))  # type: ignore[arg-type]

        return note


def test_the_files_mirror_what_is_parked() -> None:
    """At the end the slots are parked, too."""
    engine, files = Engine(1), Files()
    engine.cache = PromptCache(SIZE, files, free=lambda: None)  # type: ignore[arg-type]
    engine.cache.attach(engine.states)
    engine.turn(chat(1))
    engine.turn(chat(2))
    engine.turn([*chat(1)])
    engine.cache.close(engine.sequences)
    said = [("start", SIZE), ("write", 1), ("touch", 1), ("remove", 1), ("write", 2)]
    assert files.said == [*said, ("remove", 2), ("write", 1), ("close",)]
