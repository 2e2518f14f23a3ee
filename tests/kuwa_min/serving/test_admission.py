"""Check who gets a slot when: at once, in order of arrival, and fairly among users."""

from __future__ import annotations

import random
import threading

import pytest

from kuwa_min.serving.admission import AdmissionQueue, Ticket

LONG = 60.0


def served(queue: AdmissionQueue, running: list[Ticket], names: dict[Ticket, str]) -> list[str]:
    """End one running chat after the other; return the names in the order of their admission."""
    order = []
    while running:
        before = {ticket for ticket in names if ticket.admitted}
        queue.release(running.pop(0))
        for ticket in names:
            if ticket.admitted and ticket not in before:
                running.append(ticket)
                order.append(names[ticket])
    return order


def join(queue: AdmissionQueue, *chats: str) -> tuple[list[Ticket], dict[Ticket, str]]:
    """Let chats arrive, each named after its user and a number: "a1" is a chat of user "a"."""
    names = {queue.acquire(chat.rstrip("0123456789")): chat for chat in chats}
    return [ticket for ticket in names if ticket.admitted], names


def test_a_free_slot_is_given_at_once() -> None:
    """Two slots, three chats."""
    queue = AdmissionQueue(2)
    first, second, third = queue.acquire("a"), queue.acquire("b"), queue.acquire("c")
    assert first.wait(0)
    assert second.wait(0)
    assert not third.wait(0)
    assert (third.admitted, third.waited) == (False, 0)
    assert [queue.has_slot(ticket) for ticket in (first, second, third)] == [True, True, False]
    assert (queue.running, queue.waiting) == (2, 1)
    queue.release(second)
    assert third.wait(0)
    assert third.admitted
    assert (queue.running, queue.waiting) == (2, 0)


@pytest.mark.parametrize(
    ("arrivals", "order"),
    [
        ("a1 b1 c1 d1", "b1 c1 d1"),
        ("a1 a2 a3 b1 b2", "b1 a2 b2 a3"),  # one's second after others' first
        ("a1 a2 b1", "b1 a2"),
        ("a1 b1 b2 b3 c1 a2 c2", "b1 c1 b2 a2 c2 b3"),
        ("1 2 3", "2 3"),  # a chat without a user is a flow of its own
        ("a1 a2 1 a3 2", "1 2 a2 a3"),
        ("1 a1 2 b1", "a1 2 b1"),  # a first chat waits for none that came later
    ],
)
def test_users_take_turns_in_order_of_arrival(arrivals: str, order: str) -> None:
    """One slot, and everything arrives while the first chat runs."""
    queue = AdmissionQueue(1)
    running, names = join(queue, *arrivals.split())
    assert served(queue, running, names) == order.split()


def test_a_users_turn_does_not_depend_on_how_many_were_served() -> None:
    """A first chat comes before another user's second one, however late it joined."""
    queue = AdmissionQueue(1)
    running, names = join(queue, "a1", "a2", "b1")
    queue.release(running.pop())
    names[queue.acquire("c")] = "c1"
    running = [ticket for ticket in names if queue.has_slot(ticket)]
    assert [names[ticket] for ticket in running] == ["b1"]
    assert served(queue, running, names) == ["c1", "a2"]


def test_a_user_with_a_chat_left_is_put_back_for_those_that_have_ended() -> None:
    """Two of a, one of which has ended; a's third comes after b's first."""
    queue = AdmissionQueue(1)
    running, names = join(queue, "a1", "a2")
    queue.release(running.pop())
    names |= {queue.acquire("a"): "a3", queue.acquire("b"): "b1"}
    running = [ticket for ticket in names if queue.has_slot(ticket)]
    assert served(queue, running, names) == ["b1", "a3"]
    assert queue._flows == {}


def test_two_slots_keep_the_order_of_eight_users() -> None:
    """Six wait."""
    queue = AdmissionQueue(2)
    users = list("abcdefgh")
    running, names = join(queue, *users)
    assert served(queue, running, names) == users[2:]


def test_a_user_whose_chats_have_all_ended_is_not_put_back_for_them() -> None:
    """Ten chats of a, one after the other, then a before b."""
    queue = AdmissionQueue(1)
    for _ in range(10):
        queue.release(queue.acquire("a"))
    running, names = join(queue, "c1", "a1", "b1")
    assert served(queue, running, names) == ["a1", "b1"]
    assert queue._flows == {}


def test_cancelling_leaves_the_queue_and_wakes_the_waiting_thread() -> None:
    """Cancel the second of three; the running one cannot be cancelled."""
    queue = AdmissionQueue(1)
    first, second, third = (queue.acquire(user) for user in "abc")
    woken = threading.Event()
    thread = threading.Thread(target=lambda: second.wait(LONG) and woken.set())
    thread.start()
    assert queue.position(third) == 2
    assert queue.cancel(second)
    assert woken.wait(LONG)
    thread.join()
    assert not second.admitted
    assert not queue.cancel(second)
    assert not queue.cancel(first)
    assert queue.position(third) == 1
    queue.release(second)  # it has no slot to give back
    assert not third.admitted
    queue.release(first)
    assert third.admitted


def test_releasing_twice_gives_one_slot() -> None:
    """End a chat twice."""
    queue = AdmissionQueue(1)
    first, second, third = (queue.acquire(user) for user in "abc")
    queue.release(first)
    queue.release(first)
    assert second.admitted
    assert not third.admitted


def test_a_held_queue_admits_no_chat() -> None:
    """Hold twice with a free slot."""
    queue = AdmissionQueue(1)
    queue.hold()
    queue.hold()
    first, second = queue.acquire("a"), queue.acquire("b")
    queue.resume()
    assert not first.admitted
    queue.resume()
    assert first.admitted
    assert not second.admitted


def test_waits_are_measured() -> None:
    """Before, during and after."""
    queue = AdmissionQueue(1)
    first = queue.acquire("a")
    assert queue.longest_wait() == 0
    second, third = queue.acquire("b"), queue.acquire("c")
    age = third.age()  # measured first: time goes by between the two
    assert queue.longest_wait() >= age > 0
    queue.release(first)
    assert 0 < second.waited < LONG
    assert first.waited < LONG


def test_every_change_is_reported() -> None:
    """Numbers of running and waiting chats."""
    seen: list[tuple[int, int]] = []
    queue = AdmissionQueue(1, lambda running, waiting: seen.append((running, waiting)))
    first, second = queue.acquire("a"), queue.acquire("b")
    queue.release(first)
    queue.release(second)
    assert seen == [(1, 0), (1, 1), (1, 0), (0, 0)]


def test_many_threads_never_exceed_the_slots_and_all_are_served() -> None:
    """Two hundred chats of five users on twenty threads, some of which give up."""
    queue, lock, inside, most = AdmissionQueue(3), threading.Lock(), 0, 0

    def chat(seed: int) -> None:
        nonlocal inside, most
        some = random.Random(seed)
        for _ in range(10):
            ticket = queue.acquire(some.choice("abcde"))
            if some.random() < 0.2 and queue.cancel(ticket):
                continue
            assert ticket.wait(LONG)
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1
            queue.release(ticket)

    threads = [threading.Thread(target=chat, args=(seed,)) for seed in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert (queue.running, queue.waiting, inside) == (0, 0, 0)
    assert most <= 3
    assert queue._flows == {}
