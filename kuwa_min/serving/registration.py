"""Keep the executor registered with the Kernel while it serves."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kuwa_min.errors import StartError
from kuwa_min.httpd.messages import JSON
from kuwa_min.kernel import protocol
from kuwa_min.process.supervision import SupervisedThread, spawn

from .metrics import Metrics

if TYPE_CHECKING:
    from http.client import HTTPResponse

# Registration is level-triggered: not a message that is sent once, but a state, "the Kernel lists
# every endpoint under every name", that is compared with the Kernel's table again and again.
#
# - Start: register every endpoint. `Failed` means that a former process left its record, which may
#   be stuck as BUSY: unregister the name (which removes all of its records of this host and port)
#   and register once more. A Kernel that cannot be reached is retried with exponential backoff,
#   BACKOFF_FIRST doubled up to HEARTBEAT; after EAGER_RETRY_FOR up to BACKOFF_MAX.
# - Every HEARTBEAT: read the table and register what it lacks: the Kernel restarted, or took us for
#   dead. A Kernel without a readable table is asked to register everything; that is harmless, since
#   it answers `Failed` for a record that is there.
# - End: unregister, at most UNREGISTER_TIMEOUT long.

logger = logging.getLogger(__name__)

HEARTBEAT = 8.0  # seconds between two checks of the Kernel's table
BACKOFF_FIRST, BACKOFF_MAX = 1.0, 30.0  # seconds between attempts to reach a Kernel
EAGER_RETRY_FOR = 300.0  # seconds for which the backoff stays within HEARTBEAT
REQUEST_TIMEOUT, UNREGISTER_TIMEOUT = 5.0, 3.0  # seconds
RESPONSE_LIMIT = 4 << 20  # bytes of the Kernel's table that are read
REASON_LIMIT = 200  # characters of the Kernel's answer that are logged
FORM = "application/x-www-form-urlencoded"
REGISTERED, UNRESOLVED = "registered", "unresolved"
TABLE_ACTIONS = ("read", "debug")  # requests for the table: of Kernel 0.4, of all


class Refused(Exception):
    """Report a response that is neither a Kernel's answer nor its table."""

    def __init__(self, response: HTTPResponse) -> None:
        place = response.getheader("Location", "")[: REASON_LIMIT // 2]
        hint = f"; is --kernel_url to begin as {place} does?" if place else ""
        super().__init__(f"it answers with status {response.status} {response.reason}{hint}")


class Registration:
    """A `with` block, entered on the main thread, during which the executor is registered.

    All requests are made on a thread of its own, "registration"; the last one on "unregister".

    names: the access codes. resolve_endpoints: returns the endpoints' URLs; called until it raises
    no StartError, as it does while the Kernel's host name does not resolve. page: the URL of the
    chat page, logged after each registration.
    """

    def __init__(
        self,
        kernel_url: str,
        version: str,
        *,
        names: Sequence[str],
        resolve_endpoints: Callable[[], Sequence[str]],
        metrics: Metrics,
        page: str | None = None,
    ) -> None:
        self._kernel_url, self._version = kernel_url, version
        self._names, self._resolve_endpoints = names, resolve_endpoints
        self._metrics, self._page = metrics, page
        self._endpoints: Sequence[str] = ()
        self._table_actions = list(TABLE_ACTIONS)  # the one that worked last comes first
        self._stop = threading.Event()
        self._known_names: set[str] = set()  # that the Kernel has listed at least once
        self._state = ""  # what was logged last
        self._listed = False  # the Kernel has listed every endpoint at least once
        self._thread = SupervisedThread("registration", self._run, on_failure=self._forget_state)

    def __enter__(self) -> Registration:
        """Start the registration thread; does not wait for the Kernel."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Unregister; a Kernel that hangs delays this by UNREGISTER_TIMEOUT at most."""
        self._stop.set()
        self._thread.end_pauses()
        try:
            spawn("unregister", self._unregister_all).join(UNREGISTER_TIMEOUT)
        except RuntimeError:  # the system has no thread left
            self._unregister_all()

    def _run(self) -> None:
        """Register, then keep registered; called again after an unexpected error."""
        backoff, started = BACKOFF_FIRST, time.monotonic()
        while not (self._stop.is_set() or self._listed):
            self._listed = self._has_endpoints() and self._register_all()
            if self._listed:
                break
            self._stop.wait(backoff)
            eager = time.monotonic() - started < EAGER_RETRY_FOR
            backoff = min(backoff * 2, HEARTBEAT if eager else BACKOFF_MAX)
        while not self._stop.wait(HEARTBEAT):
            self._reconcile()

    def _forget_state(self) -> None:
        """Claim nothing after an unexpected error; what the Kernel lists is not known."""
        self._metrics.registered.set(0)
        self._state = ""

    # -- what the Kernel is asked

    def _has_endpoints(self) -> bool:
        """Resolve the endpoints' URLs once, which takes the Kernel's address."""
        try:
            self._endpoints = self._endpoints or self._resolve_endpoints()
        except StartError as error:
            self._set_state(
                f"waiting for the Kernel at {self._kernel_address()}: {error}", kind=UNRESOLVED
            )
        return bool(self._endpoints)

    def _register_all(self) -> bool:
        """Register every name; return whether all succeeded."""
        for name in self._names:
            if not self._register(name):
                return False
        hint = f": chat at {self._page}" if self._page else ""
        self._set_state(f"registered as {', '.join(self._names)}{hint}", kind=REGISTERED)
        return True

    def _register(self, name: str) -> bool:
        """Register a name's endpoints; renew records that a former process left."""
        for renewed in (False, True):
            answers = [self._post("register", name, endpoint) for endpoint in self._endpoints]
            if protocol.SUCCESS in answers:
                self._known_names.add(name)
            if all(answer == protocol.SUCCESS for answer in answers):
                return True
            if renewed or protocol.FAILED not in answers:
                break
            self._post("unregister", name, self._endpoints[0])
        if not self._stop.is_set():
            reason = self._first_failure(answers)
            self._set_state(f"waiting for the Kernel at {self._kernel_address()}: {reason}")
        return False

    def _first_failure(self, answers: list[str]) -> str:
        return next(answer for answer in answers if answer != protocol.SUCCESS)

    def _reconcile(self) -> None:
        """Register the records that the Kernel has lost."""
        missing = self._missing_records()
        if missing is None:  # no table to read: register each; "Failed" means that it is there
            missing = [(name, endpoint) for name in self._names for endpoint in self._endpoints]
        answers = {self._post("register", *pair) for pair in missing}
        unclear = answers - {protocol.SUCCESS, protocol.FAILED}
        if unclear:
            self._set_state(f"lost the Kernel at {self._kernel_address()}: {unclear.pop()}")
        elif protocol.SUCCESS in answers:
            self._metrics.registrations.inc()
            self._state = ""
            self._set_state("the Kernel had lost this executor: registered again", kind=REGISTERED)
        else:
            self._set_state("the Kernel is back and lists this executor", kind=REGISTERED)

    def _missing_records(self) -> list[tuple[str, str]] | None:
        """Return the (name, endpoint) pairs that the table lacks; None without a table."""
        if len(self._names) * len(self._endpoints) == 1:
            return None  # registering the one record costs no more than reading the table
        table = self._read_table()
        if table is None:
            return None
        listed = {(name, record[0]) for name in table for record in table[name] if record}
        wanted = [(name, endpoint) for name in self._names for endpoint in self._endpoints]
        return [pair for pair in wanted if pair not in listed]

    def _read_table(self) -> protocol.Table | None:
        """Return the Kernel's table from the first route that shows it, or None."""
        for action in tuple(self._table_actions):
            url = protocol.worker_url(self._kernel_url, self._version, action)
            try:
                table = protocol.parse_table(self._request(url, None))
            except (Refused, ValueError, RecursionError):
                continue
            except Exception:  # noqa: BLE001 - unreachable; registering says why
                return None
            self._table_actions.sort(key=action.__ne__)
            return table
        return None

    def _unregister_all(self) -> None:
        self._thread.join(REQUEST_TIMEOUT)
        names = [name for name in self._names if name in self._known_names]
        if not names:
            return
        answers = [self._post("unregister", name, self._endpoints[0]) for name in names]
        if all(answer == protocol.SUCCESS for answer in answers):
            logger.info("unregistered from the Kernel")
        else:
            logger.warning("could not unregister from the Kernel: %s", self._first_failure(answers))
        self._metrics.registered.set(0)

    # -- how it is asked

    def _post(self, action: str, name: str, endpoint: str) -> str:
        """Return the Kernel's answer, or a short reason why there is none; does not raise."""
        url = protocol.worker_url(self._kernel_url, self._version, action)
        try:
            return self._request(url, protocol.worker_form(name, endpoint)).strip()[:REASON_LIMIT]
        except Exception as error:  # noqa: BLE001 - garbage raises many kinds in http.client
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return str(reason)[:REASON_LIMIT]

    def _request(self, url: str, form: bytes | None) -> str:
        """POST a form, or GET without one; raises Refused and what http.client raises.

        All of it must be done within REQUEST_TIMEOUT: a Kernel that trickles cannot hold us up.
        """
        from kuwa_min.process.deadline import open_connection

        parts, is_read = urlsplit(url), form is None
        headers = {"Accept": JSON} if is_read else {"Content-Type": FORM}
        seconds = UNREGISTER_TIMEOUT if self._stop.is_set() else REQUEST_TIMEOUT
        with contextlib.closing(open_connection(parts, seconds)) as connection:
            connection.request("GET" if is_read else "POST", parts.path, form, headers)
            with connection.getresponse() as response:
                if response.status != 200:
                    raise Refused(response)
                return response.read(RESPONSE_LIMIT).decode("utf-8", "replace")

    def _kernel_address(self) -> str:
        parts = urlsplit(self._kernel_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def _set_state(self, state: str, *, kind: str = "") -> None:
        """Log a state if it is new; kind: its identity, for a text that may vary."""
        registered = kind == REGISTERED
        self._metrics.registered.set(registered)
        if (kind or state) != self._state:
            self._state = kind or state
            logger.log(logging.INFO if registered else logging.WARNING, "%s", state)
