"""Which requests may stop a chat.

Kuwa's Kernel sends `GET .../abort` without any authentication, so a request is judged by what it
looks like, and with --abort_from kernel by where it comes from.
"""

from __future__ import annotations

import logging

from kuwa_min.errors import HTTPError
from kuwa_min.httpd.messages import Request
from kuwa_min.httpd.origin_policy import Initiator, browser_sign, initiator

from .kernel_addresses import KernelAddresses
from .sentences import ABORT_REFUSED

logger = logging.getLogger(__name__)

LOGGED = 10  # refusals that the log explains


class AbortPolicy:
    """Refuse the requests of browsers, and those that do not come from the Kernel if asked to.

    A page of ours, or of a site in --allowed_hosts, is known by its Origin, which the server has
    checked; fetch() sends one. kernel: the addresses that are required; None: any will do.
    """

    def __init__(self, kernel: KernelAddresses | None = None) -> None:
        self._kernel = kernel
        self._logged: set[tuple[str, str]] = set()

    def check(self, request: Request, sender: str | None) -> None:
        """Raise HTTPError with 403 for a request that may not stop the chat.

        sender: the IP address that the chat came from, which may stop it: the Kernel may be known
        here by another address than it has, behind Docker or a router.
        """
        which = initiator(request.head)
        if which in (Initiator.PROGRAM, Initiator.BROWSER):
            sign = browser_sign(request.head)
            if sign is not None:
                self._refuse(
                    request.peer,
                    sign,
                    f"it looks like a browser's ({sign}), and any page can send that; programs "
                    "may stop chats, and fetch() in a page of a host in --allowed_hosts",
                )
        if self._kernel is None or request.peer == sender:
            return
        if not self._kernel.includes(request.peer, request.local):
            self._refuse(
                request.peer,
                "address",
                f"--abort_from kernel lets the Kernel ({self._kernel}), this machine and the "
                "sender of the chat stop it; --abort_from any lets all",
            )

    def refresh(self) -> None:
        """Look the Kernel's addresses up again if they are old; may take seconds."""
        if self._kernel is not None:
            self._kernel.refresh()

    def _refuse(self, peer: str, reason: str, explanation: str) -> None:
        """Raise; tell the operator once for each peer and reason, and about the first few only."""
        if (peer, reason) not in self._logged and len(self._logged) < LOGGED:
            self._logged.add((peer, reason))
            logger.warning("refused to stop a chat for %s: %s", peer, explanation)
        raise HTTPError(403, ABORT_REFUSED)
