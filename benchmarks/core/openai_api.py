"""Time from the connect to the first text and to the end, at /v1 and at /chat of one executor."""

from contextlib import ExitStack
from statistics import median

from harness.chat import ApiChat, Chat
from harness.contestants import ours, slot_path
from harness.process import Server, free_port
from harness.question import ask
from harness.rounds import interleaved, percentile
from harness.table import Row, Table, beside, within

API, CHAT = "/v1/chat/completions", "/chat"
TEXT = "abcdefgh"
DELAY = 0.002  # seconds between two pieces
MOST = 1.0  # ms that /v1 may add


def measure(quick: bool) -> Table:
    """Chat in interleaved rounds with the same process."""
    count = 60 if quick else 300
    with ExitStack() as stack:
        port = free_port()
        stack.enter_context(Server(ours(port, delay=DELAY), port))
        contestants = {API: lambda: through_api(port), CHAT: lambda: through_chat(port)}
        interleaved(contestants, 10)
        found = interleaved(contestants, count)
    title = f"/v1 beside /chat: ms from connect to the first text, n = {count}"
    return Table(title, rows(found))


def rows(found: dict[str, list[float]]) -> list[Row]:
    """Compare medians, which are to be within MOST, and slow ones."""
    middle = {name: median(values) for name, values in found.items()}
    late = {name: percentile(values, 0.95) for name, values in found.items()}
    return [
        within("median", middle[API], CHAT, middle[CHAT], MOST),
        beside("p95", late[API], CHAT, late[CHAT]),
    ]


def through_api(port: int) -> float:
    """Chat at /v1; return the milliseconds to the first text."""
    chat = ApiChat(port, API, TEXT)
    chat.read_to_end().check()
    return 1000 * chat.first_text_seconds()


def through_chat(port: int) -> float:
    """Chat as the Kernel does; return the milliseconds to the first text."""
    chat = Chat(port, slot_path(0), TEXT).read_to_end().check()
    return 1000 * chat.first_piece_seconds()


if __name__ == "__main__":
    ask(measure, __doc__)
