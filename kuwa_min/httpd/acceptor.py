"""The process that accepts our connections (see acceptor_child): start it, hear it, end it.

Both sides talk over a pair of sockets. We send a heartbeat a second; the child sends one back, and
the descriptors of the connections that it does not answer itself. The end of the stream is the end
of the other side.
"""

from __future__ import annotations

import array
import contextlib
import importlib.util
import logging
import marshal
import os
import signal
import socket
import sys
import threading
import time

from . import acceptor_child as child
from .acceptor_child import Settings

logger = logging.getLogger(__name__)

NAME = "kuwa-min-acceptor"  # its last argument, which ps shows
BOOT = (
    "import marshal,socket,sys;s=socket.socket(fileno=0);n={'__name__':'acceptor_child'};"
    "c,v=marshal.loads(s.recv(int(sys.argv[1]),socket.MSG_WAITALL));exec(c,n);n['run'](s,v)"
)
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # go to process groups; the child ends by our end alone
HEARTBEAT = 1.0  # seconds
SILENCE = 10.0  # seconds without an answer to a heartbeat after which the child counts as stuck


class AcceptorProcess:
    """One such process; used by the accepting thread alone. Raises OSError if none can start.

    The heartbeat has a thread, which waits for the interpreter's lock twice a beat: to accept a
    connection takes many more turns, a minute of them with 64 busy chats on a crowded machine.
    listening: our listening socket, which we must not accept from once `started` is true.
    """

    def __init__(self, listening: socket.socket, settings: Settings) -> None:
        self.started = False
        self._family, self._kind = listening.family, listening.type
        self._stale_seconds = settings.stale_seconds
        self._control, theirs = socket.socketpair()
        try:
            size = _send_program(self._control, settings)
            _send_descriptor(self._control, listening)
            with theirs:
                self._pid = _spawn(theirs, size)
        except OSError:
            self._control.close()
            theirs.close()
            raise
        self._control.setblocking(False)
        self._unanswered: float | None = None  # when the oldest such heartbeat was sent
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat_until_closed, name="heart", daemon=True)
        try:
            self._heart.start()
        except RuntimeError as error:
            self._end()
            raise OSError(str(error)) from None

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something to do."""
        return self._control.fileno()

    def receive(self) -> tuple[socket.socket, object] | None:
        """Return a connection and its address, or None; raises EOFError at the child's end.

        OSError says that we are out of descriptors: a connection is lost.
        """
        space, flags = socket.CMSG_LEN(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
        try:
            data, ancillary, said, _ = self._control.recvmsg(1, space, flags)
        except BlockingIOError:
            return None
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        if not self.started:
            logger.debug("process %d accepts connections and answers /health", self._pid)
        self.started, self._unanswered = True, None
        if said & socket.MSG_CTRUNC:
            raise OSError("a connection could not be received")
        if data != child.CONNECTION:
            return None
        return self._connection(array.array("i", ancillary[0][2])[0])

    def _connection(self, number: int) -> tuple[socket.socket, object] | None:
        sock = socket.socket(self._family, self._kind, fileno=number)
        try:
            return sock, sock.getpeername()
        except OSError:  # it has left
            sock.close()
            return None

    def _beat_until_closed(self) -> None:
        last = time.monotonic()
        while not self._closed.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # its buffer is full, or it ends
                self._control.send(child.ALIVE)
            now = time.monotonic()
            if self._unanswered is None:
                self._unanswered = now
            if now - last > self._stale_seconds:
                logger.warning("nothing moved here for %.0f s; /health said 503", now - last)
            last = now

    @property
    def stuck(self) -> bool:
        """Tell whether the child has not answered for long, if there is nothing to receive."""
        return self._unanswered is not None and time.monotonic() - self._unanswered > SILENCE

    def close(self) -> None:
        """End the child, and with it the connections that it holds."""
        self._closed.set()
        self._heart.join()  # it must not send to whatever gets the descriptor next
        self._end()

    def _end(self) -> None:
        self._control.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def is_possible() -> bool:
    """Tell whether such a process can be started: on Linux and FreeBSD, by a Python of its own."""
    if not hasattr(socket, "MSG_CMSG_CLOEXEC") or getattr(sys, "frozen", False):
        return False
    return "python" in os.path.basename(sys.executable or "")  # noqa: PTH119 - pathlib is slow


def _send_program(control: socket.socket, settings: Settings) -> int:
    """Send the child's code and settings; return their size in bytes."""
    spec = importlib.util.find_spec(child.__name__)
    assert spec is not None
    code = spec.loader.get_code(child.__name__)  # type: ignore[union-attr]
    data = marshal.dumps((code, tuple(settings)))
    control.sendall(data)
    return len(data)


def _spawn(control: socket.socket, size: int) -> int:
    """Start the child process; return its process id.

    control: becomes its standard input. size: bytes of the program that it reads from there.
    """
    null = os.open(os.devnull, os.O_RDWR)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", BOOT, str(size), NAME],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, control.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
                (os.POSIX_SPAWN_DUP2, null, 2),
            ],
            setsigmask=[getattr(signal, name) for name in SIGNALS],
        )
    finally:
        os.close(null)


def _send_descriptor(control: socket.socket, listening: socket.socket) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listening.fileno()]))]
    control.sendmsg([child.CONNECTION], ancillary)
