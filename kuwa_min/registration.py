"""Keep "the Kernel lists our endpoints" true: register, take over, watch, unregister.

The registration is a state to keep, not an event to do once: asking again is harmless, since the
Kernel answers `Failed` when the endpoint is already there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from . import protocol
from .errors import StartError
from .exchange import JSON
from .metrics import Metrics

logger = logging.getLogger(__name__)

BEAT = 8.0  # seconds between two looks at the Kernel's list
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between attempts at a Kernel that is not up
EAGER = 300.0  # seconds for which a Kernel that is not up is asked at least once a beat
TIMEOUT, GOODBYE_TIMEOUT = 5.0, 3.0
REGISTERED, UNRESOLVED = "registered", "unresolved"
TABLES = ("read", "debug")  # worker routes that show the table: of Kernel 0.4, of all
ANSWER_LIMIT = 4 << 20  # bytes of the Kernel's table that are read


class Registration:
    """A `with` block during which the Kernel lists every endpoint under every name.

    locate: returns the endpoints; called until it raises no StartError, which it does while the
    Kernel's host name does not resolve.
    """

    def __init__(
        self,
        kernel_url: str,
        version: str,
        *,
        names: Sequence[str],
        locate: Callable[[], Sequence[str]],
        metrics: Metrics,
    ) -> None:
        self._kernel_url, self._version = kernel_url, version
        self._names, self._locate, self._metrics = names, locate, metrics
        self._endpoints: Sequence[str] = ()
        self._tables = list(TABLES)  # the one that worked last stands first
        self._stop = threading.Event()
        self._state = ""
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def __enter__(self) -> Registration:
        """Start registering, on a thread of its own."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Unregister; a Kernel that hangs delays the end by GOODBYE_TIMEOUT at most."""
        self._stop.set()
        goodbye = threading.Thread(target=self._unregister_all, name="goodbye", daemon=True)
        goodbye.start()
        goodbye.join(GOODBYE_TIMEOUT)

    def _run(self) -> None:
        wait, started = FIRST_WAIT, time.monotonic()
        while not self._stop.is_set() and not (self._found_endpoints() and self._register_all()):
            self._stop.wait(wait)
            eager = time.monotonic() - started < EAGER
            wait = min(wait * 2, BEAT if eager else LONGEST_WAIT)
        while not self._stop.wait(BEAT):
            self._watch()

    # -- what the Kernel is asked

    def _found_endpoints(self) -> bool:
        """Determine our endpoints, which needs the Kernel's address, once."""
        try:
            self._endpoints = self._endpoints or self._locate()
        except StartError as error:
            self._note(f"waiting for the Kernel at {self._where()}: {error}", kind=UNRESOLVED)
        return bool(self._endpoints)

    def _register_all(self) -> bool:
        """Register everything, taking over what a former process left; return whether it worked."""
        for name in self._names:
            if not self._take_over(name):
                return False
        self._note(f"registered as {', '.join(self._names)}", kind=REGISTERED)
        return True

    def _take_over(self, name: str) -> bool:
        """Register a name's endpoints; renew those that stand there, which may be stuck."""
        for renewed in (False, True):
            answers = [self._tell("register", name, endpoint) for endpoint in self._endpoints]
            if all(answer == protocol.SUCCESS for answer in answers):
                return True
            if renewed or protocol.FAILED not in answers:
                break
            self._tell("unregister", name, self._endpoints[0])
        if not self._stop.is_set():
            self._note(f"waiting for the Kernel at {self._where()}: {self._problem(answers)}")
        return False

    def _problem(self, answers: list[str]) -> str:
        return next(answer for answer in answers if answer != protocol.SUCCESS)

    def _watch(self) -> None:
        """Notice records that the Kernel has lost, and register them again."""
        missing = self._missing()
        if missing is None:  # no table to read: ask for each; "Failed" means that it is there
            missing = [(name, endpoint) for name in self._names for endpoint in self._endpoints]
        answers = {self._tell("register", *pair) for pair in missing}
        unclear = answers - {protocol.SUCCESS, protocol.FAILED}
        if unclear:
            self._note(f"lost the Kernel at {self._where()}: {unclear.pop()}")
        elif protocol.SUCCESS in answers:
            self._metrics.registrations.inc()
            self._state = ""
            self._note("the Kernel had lost this executor: registered again", kind=REGISTERED)
        else:
            self._note("the Kernel is back and lists this executor", kind=REGISTERED)

    def _missing(self) -> list[tuple[str, str]] | None:
        """Return what the Kernel's table lacks, or None if it shows no table."""
        if len(self._names) * len(self._endpoints) == 1:
            return None  # asking for the one record costs no more than asking for the table
        table = self._table()
        if table is None:
            return None
        listed = {(name, record[0]) for name in table for record in table[name] if record}
        wanted = [(name, endpoint) for name in self._names for endpoint in self._endpoints]
        return [pair for pair in wanted if pair not in listed]

    def _table(self) -> protocol.Table | None:
        """Return the Kernel's table from the route that it has; None if it shows none."""
        import urllib.error

        for verb in tuple(self._tables):
            url = protocol.worker_url(self._kernel_url, self._version, verb)
            try:
                table = protocol.parse_table(self._request(url, None))
            except urllib.error.HTTPError as error:
                error.close()
            except (ValueError, RecursionError):
                pass
            except Exception:  # noqa: BLE001 - it is not there; asking to register says why
                return None
            else:
                self._tables.sort(key=verb.__ne__)
                return table
        return None

    def _unregister_all(self) -> None:
        self._thread.join(TIMEOUT)
        if self._state != REGISTERED:
            return
        answers = [self._tell("unregister", name, self._endpoints[0]) for name in self._names]
        if all(answer == protocol.SUCCESS for answer in answers):
            logger.info("unregistered from the Kernel")
        else:
            logger.warning("could not unregister from the Kernel: %s", self._problem(answers))
        self._metrics.registered.set(0)

    # -- how it is asked

    def _tell(self, verb: str, name: str, endpoint: str) -> str:
        """Return the Kernel's word, or a short description of why there is none."""
        url = protocol.worker_url(self._kernel_url, self._version, verb)
        try:
            return self._request(url, protocol.worker_form(name, endpoint)).strip()[:200]
        except Exception as error:  # noqa: BLE001 - garbage raises many kinds in http.client
            reason = getattr(error, "reason", None) or error
            return str(getattr(reason, "strerror", None) or reason or type(error).__name__)[:200]

    def _request(self, url: str, form: bytes | None) -> str:
        import urllib.request

        direct = urllib.request.ProxyHandler({})  # never through a proxy of the environment
        request = urllib.request.Request(url, form, {"Accept": JSON} if form is None else {})
        timeout = GOODBYE_TIMEOUT if self._stop.is_set() else TIMEOUT
        with urllib.request.build_opener(direct).open(request, None, timeout) as answer:
            return str(answer.read(ANSWER_LIMIT).decode("utf-8", "replace"))

    def _where(self) -> str:
        parts = urlsplit(self._kernel_url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def _note(self, state: str, *, kind: str = "") -> None:
        """Log a change of state, once; kind: what the state is, if its text may vary."""
        registered = kind == REGISTERED
        self._metrics.registered.set(registered)
        if (kind or state) != self._state:
            self._state = kind or state
            logger.log(logging.INFO if registered else logging.WARNING, "%s", state)
