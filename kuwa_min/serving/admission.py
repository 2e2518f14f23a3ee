"""Admit chats to slots in a fair order. No HTTP, no Kernel."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

# Start-time fair queueing. A flow is a user; a chat costs one unit, whatever its length.
#
# - The virtual time is the highest start tag that was admitted so far.
# - A chat that joins gets a start tag: for a user without outstanding chats (waiting or running)
#   the virtual time, else one more than the tag of that user's last chat, and at least the virtual
#   time. A chat of an unknown user is a flow of its own.
# - A free slot goes to the lowest tag; among equal tags, to the chat that came first.
#
# So users take turns: a user's second chat comes after the first chats of all others, however early
# it joined. A user whose chats have all ended is forgotten and owes nothing.

OnChange = Callable[[int, int], None]  # (running, waiting): numbers of chats


class Ticket:
    """One chat's claim to a slot: it waits, then is admitted, or dismissed without a slot."""

    def __init__(self, user: str, order: tuple[int, int]) -> None:
        self.user, self.order = user, order  # order: start tag, sequence number
        self.waited = 0.0  # seconds, once admitted
        self.admitted = False
        self._joined = time.monotonic()
        self._decided = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Wait until the ticket is admitted or dismissed; return False on timeout."""
        return self._decided.wait(seconds)

    def age(self) -> float:
        """Return the seconds since the chat joined the queue."""
        return time.monotonic() - self._joined

    def admit(self) -> None:
        """Wake the waiting thread with a slot; called by the queue, with its lock held."""
        self.waited, self.admitted = self.age(), True
        self._decided.set()

    def dismiss(self) -> None:
        """Wake the waiting thread without a slot; called by the queue, with its lock held."""
        self._decided.set()


class _Flow:
    """A user with outstanding chats."""

    def __init__(self) -> None:
        self.outstanding, self.last_tag = 0, -1


class AdmissionQueue:
    """A fixed number of slots and the chats that wait for one; thread-safe.

    The HTTP worker thread of a chat calls `acquire`, then waits on the ticket. `release` is called
    on the thread where the computation has really ended, `cancel` on any.

    on_change: called after each change with the numbers of running and waiting chats, with the lock
    held: it must neither wait nor call the queue.
    """

    def __init__(self, slots: int, on_change: OnChange = lambda running, waiting: None) -> None:
        self._slots, self._on_change = slots, on_change
        self._lock = threading.Lock()
        self._waiting: list[Ticket] = []
        self._running: set[Ticket] = set()
        self._flows: dict[str, _Flow] = {}
        self._virtual_time, self._sequence = 0, itertools.count()
        self._holds = 0

    def acquire(self, user: str) -> Ticket:
        """Join the queue; with a free slot the ticket is admitted at once. user: "" if unknown."""
        with self._lock:
            ticket = Ticket(user, (self._start_tag(user), next(self._sequence)))
            self._waiting.append(ticket)
            self._admit()
            return ticket

    def release(self, ticket: Ticket) -> None:
        """Give a slot back and admit the next chat; does nothing for a ticket without a slot."""
        with self._lock:
            if ticket in self._running:
                self._running.remove(ticket)
                self._leave_flow(ticket)
                self._admit()

    def cancel(self, ticket: Ticket) -> bool:
        """Dismiss a waiting ticket; return False if it no longer waits."""
        with self._lock:
            if ticket not in self._waiting:
                return False
            self._waiting.remove(ticket)
            self._leave_flow(ticket)
            ticket.dismiss()
            self._admit()
            return True

    def has_slot(self, ticket: Ticket) -> bool:
        """Tell whether a ticket was admitted and not released yet."""
        with self._lock:
            return ticket in self._running

    def hold(self) -> None:
        """Stop admitting until `resume` has been called as often as this."""
        with self._lock:
            self._holds += 1

    def resume(self) -> None:
        """Undo one `hold`."""
        with self._lock:
            self._holds -= 1
            self._admit()

    def position(self, ticket: Ticket) -> int:
        """Return the ticket's position in the queue; 1 is admitted next."""
        with self._lock:
            return 1 + sum(one.order < ticket.order for one in self._waiting)

    @property
    def running(self) -> int:
        """Return the number of slots in use."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Return the number of waiting chats."""
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
            self._virtual_time = max(self._virtual_time, ticket.order[0])
            ticket.admit()
        self._on_change(len(self._running), len(self._waiting))

    def _start_tag(self, user: str) -> int:
        if not user:
            return self._virtual_time
        flow = self._flows.setdefault(user, _Flow())
        flow.last_tag = max(self._virtual_time, flow.last_tag + 1)
        flow.outstanding += 1
        return flow.last_tag

    def _leave_flow(self, ticket: Ticket) -> None:
        flow = self._flows.get(ticket.user)
        if flow is not None:
            flow.outstanding -= 1
            if not flow.outstanding:
                del self._flows[ticket.user]
