"""Admit chats to slots: at once while one is free, else in a fair order. No HTTP, no Kernel.

Start-time fair queueing with users as flows: a chat gets a round when it joins. It is the present
round, or, for a user with other chats outstanding (waiting or running), the one after that user's
last. A free slot goes to the lowest round, within a round to the oldest chat. So users take turns,
a user's second chat comes after the first ones of others however early it came, and a user without
outstanding chats has no past.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

OnChange = Callable[[int, int], None]  # chats that run, chats that wait


class Ticket:
    """One chat's place: in the queue, then in a slot."""

    def __init__(self, user: str, order: tuple[int, int]) -> None:
        self.user, self.order = user, order  # order: round, number of arrival
        self.waited = 0.0  # seconds, once admitted
        self.admitted = False
        self._joined = time.monotonic()
        self._decided = threading.Event()  # admitted, or out of the queue

    def wait(self, seconds: float) -> bool:
        """Wait until the chat is admitted or cancelled; return False if neither came in time."""
        return self._decided.wait(seconds)

    def age(self) -> float:
        """Return the seconds since the chat joined the queue."""
        return time.monotonic() - self._joined

    def admit(self) -> None:
        """Let the waiting thread go on, with a slot."""
        self.waited, self.admitted = self.age(), True
        self._decided.set()

    def dismiss(self) -> None:
        """Let the waiting thread go on, without a slot."""
        self._decided.set()


class _User:
    """What the queue knows of a user with outstanding chats."""

    def __init__(self) -> None:
        self.outstanding, self.last_round = 0, 0


class AdmissionQueue:
    """A number of slots and the chats that wait for one; every method may run on any thread.

    A chat's thread calls `acquire`, waits on the ticket, and calls `release` once its computation
    has really ended. `cancel` takes a chat that still waits out of the queue.
    """

    def __init__(self, slots: int, on_change: OnChange = lambda running, waiting: None) -> None:
        self._slots, self._on_change = slots, on_change  # called with the lock held: never waits
        self._lock = threading.Lock()
        self._waiting: list[Ticket] = []
        self._running: set[Ticket] = set()
        self._users: dict[str, _User] = {}
        self._round, self._numbers = 0, itertools.count()
        self._holds = 0

    def acquire(self, user: str = "") -> Ticket:
        """Join the queue; with a free slot the ticket is admitted at once.

        user: whose chat it is; "" if unknown, then the chat stands for itself.
        """
        with self._lock:
            ticket = Ticket(user, (self._next_round(user), next(self._numbers)))
            self._waiting.append(ticket)
            self._admit()
            return ticket

    def release(self, ticket: Ticket) -> None:
        """Give a slot back and admit the next chat; does nothing for a ticket without a slot."""
        with self._lock:
            if ticket in self._running:
                self._running.remove(ticket)
                self._forget(ticket)
                self._admit()

    def cancel(self, ticket: Ticket) -> bool:
        """Leave the queue; return False for a ticket that does not wait any more."""
        with self._lock:
            if ticket not in self._waiting:
                return False
            self._waiting.remove(ticket)
            self._forget(ticket)
            ticket.dismiss()
            self._admit()
            return True

    def has_slot(self, ticket: Ticket) -> bool:
        """Tell whether a ticket was admitted and not released yet."""
        with self._lock:
            return ticket in self._running

    def hold(self) -> None:
        """Admit no chat until `resume` was called as often as this."""
        with self._lock:
            self._holds += 1

    def resume(self) -> None:
        """Undo one `hold`."""
        with self._lock:
            self._holds -= 1
            self._admit()

    def position(self, ticket: Ticket) -> int:
        """Return the ticket's place in the queue, 1 being the next to be admitted."""
        with self._lock:
            return 1 + sum(one.order < ticket.order for one in self._waiting)

    @property
    def running(self) -> int:
        """Return how many slots are taken."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Return how many chats wait."""
        return len(self._waiting)

    def longest_wait(self) -> float:
        """Return the seconds that the oldest waiting chat has waited, 0 if none waits."""
        with self._lock:
            return max((ticket.age() for ticket in self._waiting), default=0.0)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._slots and not self._holds:
            ticket = min(self._waiting, key=lambda one: one.order)
            self._waiting.remove(ticket)
            self._running.add(ticket)
            self._round = max(self._round, ticket.order[0])
            ticket.admit()
        self._on_change(len(self._running), len(self._waiting))

    def _next_round(self, user: str) -> int:
        if not user:
            return self._round
        known = self._users.setdefault(user, _User())
        first = not known.outstanding
        known.last_round = self._round if first else max(self._round, known.last_round + 1)
        known.outstanding += 1
        return known.last_round

    def _forget(self, ticket: Ticket) -> None:
        known = self._users.get(ticket.user)
        if known is not None:
            known.outstanding -= 1
            if not known.outstanding:
                del self._users[ticket.user]
