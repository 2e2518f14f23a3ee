"""Count tokens for the current chat, in its threads and tasks."""

from __future__ import annotations

import asyncio
import threading

from kuwa_min.serving import usage
from kuwa_min.serving.usage import Usage


def test_tokens_are_added_to_the_current_chat() -> None:
    """Before and after it they count for none."""
    one = Usage()
    usage.count(1, 1)
    with usage.counting(one):
        usage.count(5, 0)
        usage.count(0, 2)
    usage.count(1, 1)
    assert (one.prompt_tokens, one.completion_tokens, one.counted) == (5, 2, True)
    assert not Usage().counted


def test_two_chats_at_once_do_not_mix() -> None:
    """Each has a thread of its own."""
    both = threading.Barrier(2)
    counted = [Usage(), Usage()]

    def chat(number: int) -> None:
        with usage.counting(counted[number]):
            both.wait()
            usage.count(number, 10 + number)

    threads = [threading.Thread(target=chat, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(one.prompt_tokens, one.completion_tokens) for one in counted] == [(0, 10), (1, 11)]


def test_tasks_on_a_loop_elsewhere_inherit_the_chat() -> None:
    """As executors on the loop of the process count."""
    loop, one = asyncio.new_event_loop(), Usage()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def work() -> None:
        await asyncio.to_thread(usage.count, 3, 4)
        usage.count(1, 1)

    with usage.counting(one):
        asyncio.run_coroutine_threadsafe(work(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert (one.prompt_tokens, one.completion_tokens) == (4, 5)
