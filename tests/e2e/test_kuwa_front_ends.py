"""The built files behind the Kernels and front ends of Kuwa 0.3.4 and 0.4, or their fakes."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kuwa_min.errors import UNEXPECTED
from tests.fakes.kuwa.kernel_03 import Kernel, kernel_03
from tests.fakes.kuwa.kernel_04 import kernel_04
from tests.fakes.kuwa.multi_chat import FrontEnd, Room, Seen
from tests.fakes.kuwa.multi_chat_03 import FrontEnd03
from tests.fakes.kuwa.multi_chat_04 import FrontEnd04
from tests.support.programs import ROOT, TIMEOUT, Program, fetch, post_json, until

pytestmark = pytest.mark.slow

Built = Callable[[str], Path]
VERSIONS = {"0.3.4": (kernel_03, FrontEnd03), "0.4": (kernel_04, FrontEnd04)}
SCRIPTED = ROOT / "tests" / "fakes" / "kuwa" / "scripted_executor.py"
SENTENCE = (  # 67 characters without an end of a line
    "第一件事是先確認需求，第二件事是安排時間，第三件事是把結果寫下來，"
    "最後再請大家一起檢查一遍，確定沒有遺漏任何一項重要的內容為止。完畢了"
)
NOTES = (
    "This is a side note: text for the person that is not part of the answer.",
    "這是另一則附註：它不屬於回答本身。",
)
# What depends on the clock is tried until it comes true, for the machine may be busy.
PROMPT_SECONDS, HANDOVER_SECONDS = 0.05, 0.02


class Kuwa:
    """One Kernel, and front ends that talk to it by the name that it has in Docker."""

    def __init__(self, version: str, kernel: Kernel, journal: Path) -> None:
        self.framed = version == "0.4"
        self.kernel, self.front_end_class = kernel, VERSIONS[version][1]
        self.journal = journal

    def front_end(self, user_id: int = 3) -> FrontEnd:
        """Return the front end of one user."""
        return self.front_end_class(self.kernel.url, "bot", user_id=user_id, host="kernel:9000")

    def room(self, **how: Any) -> Room:
        """Return a chat room of a user."""
        return Room(self.front_end(), **how)

    def ask(self, *pieces: Any, history_id: int = 7, user_id: int = 3, **script: Any) -> Seen:
        """Let the scripted executor answer one message."""
        return self.front_end(user_id).chat(message(*pieces, **script), history_id)

    @contextlib.contextmanager
    def executor(self, file: Path, *options: str, endpoints: int = 1) -> Iterator[Program]:
        """Run a built file until the Kernel has its endpoints, and through the block."""
        common = ("--kernel_url", f"{self.kernel.url}/", "--access_code", "bot")
        with Program(*options, *common, command=(sys.executable, str(file))) as program:
            program.wait_for("registered as ")
            until(lambda: len(self.rows) >= endpoints)
            yield program

    @contextlib.contextmanager
    def scripted(self, file: Path, *options: str, endpoints: int = 1) -> Iterator[Program]:
        """Run the scripted executor in a built file."""
        words = (str(SCRIPTED), "--journal", str(self.journal), *options)
        with self.executor(file, *words, endpoints=endpoints) as program:
            yield program

    @property
    def rows(self) -> list[list[Any]]:
        """Return the Kernel's records of the executor."""
        return self.kernel.records.get("bot", [])

    @property
    def idle(self) -> bool:
        """Tell whether all endpoints are free."""
        return all(row[1:] == ["READY", -1, -1] for row in self.rows)

    def noted(self, what: str) -> list[tuple[str, float]]:
        """Return the names and times of the journal's lines of one kind."""
        lines = self.journal.read_text().split("\n") if self.journal.exists() else []
        words = [line.split() for line in lines if line.startswith(what)]
        return [(name, float(at)) for _, name, at in words]


def message(*pieces: Any, **script: Any) -> list[dict[str, Any]]:
    """Return a history whose only message is a script."""
    return [{"msg": json.dumps({"pieces": pieces, **script}), "isbot": 0}]


@pytest.fixture(params=VERSIONS)
def kuwa(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kuwa]:
    """Run the Kernel of each version."""
    with VERSIONS[request.param][0]() as kernel:
        yield Kuwa(request.param, kernel, tmp_path / "journal")


@pytest.fixture
def kuwa_04(tmp_path: Path) -> Iterator[Kuwa]:
    """Run the Kernel of 0.4."""
    with kernel_04() as kernel:
        yield Kuwa("0.4", kernel, tmp_path / "journal")


@pytest.mark.parametrize(
    ("user", "bot"), [(0, 1), (False, True), (None, 1), ("", "1")], ids=lambda flag: repr(flag)
)
def test_ten_turns_go_well_whatever_the_database_makes_of_isbot(
    kuwa: Kuwa, built: Built, user: Any, bot: Any
) -> None:
    """SQLite gives 0 and 1, PostgreSQL booleans; null and empty text occur."""
    with kuwa.scripted(built("debug")):
        room = kuwa.room(user=user, bot=bot)
        answers = [room.say(f"turn {turn}").saved for turn in range(10)]
    assert answers == ["ua" * turn + "u" for turn in range(10)]


def test_each_character_of_a_long_line_is_seen_at_once(kuwa: Kuwa, built: Built) -> None:
    """0.4 publishes one update for each piece, 0.3.4 one for each of its windows."""
    assert len(SENTENCE) == 67

    def say() -> list[str]:
        seen = kuwa.front_end().chat([{"msg": SENTENCE, "isbot": 0}])
        assert (seen.saved, seen.exit_code) == (SENTENCE, 0 if kuwa.framed else None)
        parts = [text.removesuffix("...") for text in seen.texts]
        assert all(SENTENCE.startswith(part) for part in parts)
        return parts

    with kuwa.executor(built("debug"), "debug", "--delay", "0.02"):
        if kuwa.framed:
            assert say() == [SENTENCE[: n + 1] for n in range(67)]
        until(lambda: len(say()) >= 5)


def test_the_first_piece_is_seen_before_there_is_a_second(
    kuwa_04: Kuwa, built: Built, tmp_path: Path
) -> None:
    """Within 50 ms of the time at which the executor made it."""
    gates = (tmp_path / f"gate {number}" for number in itertools.count())

    def delay() -> float:
        gate, delays = next(gates), list[float]()

        def open_gate(_: Seen) -> None:
            delays.append(time.monotonic() - kuwa_04.noted("piece")[-1][1])
            gate.touch()

        script = message("一", ["wait", str(gate)])
        seen = kuwa_04.front_end().chat(script, on_update=open_gate)
        assert seen.texts == ["一..."]
        return delays[0]

    with kuwa_04.scripted(built("debug")):
        until(lambda: delay() < PROMPT_SECONDS)


@pytest.mark.parametrize(
    "answer",
    [
        "data: one\ndata: {\"delta\": 5}\n\ndata: [DONE]\n\nlast",
        "data: \ndata: {\"delta\": [{\"type\": \"exit_code\"}]}\nx",
        "a < b << c <<< d\n<b>bold</b> 😀 \\u4e2d \x01",
    ],
)  # fmt: skip
def test_an_answer_arrives_to_the_byte(kuwa: Kuwa, built: Built, answer: str) -> None:
    """Lines that look like frames, tags that are none, and what JSON escapes."""
    with kuwa.executor(built("debug"), "debug", "--delay", "0"):
        assert kuwa.front_end().chat([{"msg": answer, "isbot": 0}]).saved == answer
        caller = kuwa.front_end().chat([{"msg": answer, "isbot": 0}], -7)
    assert "".join(caller.texts) == answer


def test_side_notes_arrive_whole(kuwa: Kuwa, built: Built) -> None:
    """A room gets them behind the text; an API caller as one block."""
    with kuwa.executor(built("dummy"), "dummy", "--delay", "0"):

        def notes() -> str:
            seen = kuwa.front_end().chat([{"msg": "x", "isbot": 0}])
            assert seen.text.startswith("Hello! I am the dummy executor")
            assert seen.text.rstrip().endswith("to your screen works.")
            assert not any(note in seen.text for note in NOTES)
            assert "WARNING" not in seen.text
            return "\n".join(seen.notes)

        until(lambda: notes() == "\n".join(NOTES))
        caller = "".join(kuwa.front_end().chat([{"msg": "x", "isbot": 0}], -7).texts)
    block = caller[caller.index("<<<WARNING>>>") : caller.index("<<</WARNING>>>")]
    assert all(note in block for note in NOTES)


def test_a_failure_is_told_without_its_cause(kuwa: Kuwa, built: Built) -> None:
    """On 0.4 it is a log line and the exit code 1024."""
    with kuwa.scripted(built("debug")) as program:
        seen = kuwa.ask("before", ["raise", "error", "secret cause"])
        assert "secret" not in seen.saved
        assert seen.saved.startswith("before")
        assert UNEXPECTED in seen.saved
        if kuwa.framed:
            assert (seen.saved, seen.exit_code) == (f"before\n[ERROR] {UNEXPECTED}", 1024)
        caller = kuwa.ask(["raise", "error", "secret cause"], history_id=-7)
        assert UNEXPECTED in "".join(caller.texts)
        assert caller.exit_code == (1024 if kuwa.framed else None)
        assert "RuntimeError" in program.log
        assert kuwa.ask("well").saved == "well"


def test_a_sentence_for_the_user_is_the_answer(kuwa: Kuwa, built: Built) -> None:
    """AnswerError: text on both, and a failure by its exit code on 0.4."""
    with kuwa.scripted(built("debug")):
        seen = kuwa.ask(["raise", "answer", "[Ask for less.]"])
    assert seen.saved == "[Ask for less.]"
    assert seen.exit_code == (1024 if kuwa.framed else None)


def test_a_custom_executor_yields_chunks_on_both(kuwa: Kuwa, built: Built) -> None:
    """0.3.4 sees of them what 0.4 makes text of, and a refusal."""
    pieces = (
        ["progress", 1, 2],
        *("a", ["log", "warm", "WARNING"], "b"),
        *(["refusal", "No."], ["exit_code", 1]),
    )
    with kuwa.scripted(built("debug")):
        seen = kuwa.ask(*pieces)
    assert seen.saved == "a\n[WARNING] warmbNo."
    assert seen.exit_code == (1 if kuwa.framed else None)


def test_abort_ends_the_answer_and_frees_the_endpoint(
    kuwa: Kuwa, built: Built, tmp_path: Path
) -> None:
    """What was said stays; on 0.4 it is no failure."""
    client = kuwa.front_end()
    never = ["wait", str(tmp_path / "never")]
    with kuwa.scripted(built("debug")):
        answers: list[Seen] = []
        chat = threading.Thread(
            target=lambda: answers.append(client.chat(message("said", never, "unsaid")))
        )
        chat.start()
        until(lambda: kuwa.noted("piece"))
        until(lambda: any(row[1] == "BUSY" for row in kuwa.rows))
        client.abort(7)
        chat.join(TIMEOUT)
        assert answers[0].saved == "said"
        assert answers[0].exit_code == (0 if kuwa.framed else None)
        assert kuwa.idle
        assert kuwa.ask("next").saved == "next"


def test_eight_users_on_two_slots_are_served_in_order(
    kuwa: Kuwa, built: Built, tmp_path: Path
) -> None:
    """No chat is refused; the next begins within 20 ms of an end."""
    options = ("--concurrent_req_limit", "2", "--waiting", "6")
    with kuwa.scripted(built("debug"), *options, endpoints=8) as program:
        status = program.url.removesuffix("/chat") + "/status"
        until(lambda: quickest_handover(kuwa, status, tmp_path) < HANDOVER_SECONDS)


def quickest_handover(kuwa: Kuwa, status: str, folder: Path) -> float:
    """Have eight users chat on two slots; return the least seconds from an end to a beginning."""
    kuwa.journal.unlink(missing_ok=True)
    answers: dict[int, Seen] = {}
    gates = [folder / f"gate {user}" for user in range(8)]

    def chat(user: int) -> None:
        answers[user] = kuwa.ask("ok", ["wait", str(gates[user])], name=str(user), user_id=user + 1)

    threads = [threading.Thread(target=chat, args=(user,)) for user in range(8)]
    for user, thread in enumerate(threads):
        gates[user].unlink(missing_ok=True)
        until(lambda n=user: present(status) == n)  # type: ignore[misc]
        until(lambda n=user: len(kuwa.noted("begin")) == min(2, n))  # type: ignore[misc]
        thread.start()
    until(lambda: present(status) == 8)
    for user, gate in enumerate(gates):
        until(lambda n=user: len(kuwa.noted("begin")) == min(8, n + 2))  # type: ignore[misc]
        gate.touch()
    for thread in threads:
        thread.join(TIMEOUT)
    assert {user: seen.saved for user, seen in answers.items()} == dict.fromkeys(range(8), "ok")
    begun = [name for name, _ in kuwa.noted("begin")]
    assert begun == [str(user) for user in range(8)]
    ends = [at for _, at in kuwa.noted("end")]
    begins = [at for _, at in kuwa.noted("begin")][2:]
    return min(begin - end for end, begin in zip(ends, begins, strict=False))


def present(status: str) -> int:
    """Return how many chats run or wait."""
    now = json.loads(fetch(status)[1])
    return int(now["busy_slots"]) + int(now["waiting"])


def test_the_kernel_shuts_an_executor_down_after_its_answers(
    kuwa_04: Kuwa, built: Built, tmp_path: Path
) -> None:
    """The records go first, the running answer is finished, then the process ends."""
    gate = tmp_path / "gate"
    with kuwa_04.scripted(built("debug")) as program:
        answers: list[Seen] = []
        script = ("said", ["wait", str(gate)], " to the end")
        chat = threading.Thread(target=lambda: answers.append(kuwa_04.ask(*script)))
        chat.start()
        until(lambda: kuwa_04.noted("piece"))
        free = next(row for row in kuwa_04.rows if row[2] == -1)
        record = dict(zip(("endpoint", "status", "history_id", "user_id"), free, strict=True))
        url = f"{kuwa_04.kernel.url}/v1.0/worker/shutdown"
        assert post_json(url, {"access_code": "bot", **record})[0] == 200
        until(lambda: not kuwa_04.rows)
        assert program.process.poll() is None
        gate.touch()
        chat.join(TIMEOUT)
        assert (answers[0].saved, answers[0].exit_code) == ("said to the end", 0)
        assert program.end() == 0
