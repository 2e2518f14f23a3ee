"""GET /shutdown: stop the process as SIGTERM does, for the Kernel and for this machine only.

Kuwa's Kernel 0.4 sends it without any authentication, so the peer's address decides. Requests of
browsers and forwarded ones are refused: behind their peer stands another client. (The server checks
the Host before it calls a route.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kuwa_min.errors import HTTPError
from kuwa_min.httpd.messages import Request, Response, json_message
from kuwa_min.httpd.origin_policy import Initiator, browser_sign, initiator

from .kernel_addresses import KernelAddresses
from .sentences import SHUTDOWN_REFUSED

logger = logging.getLogger(__name__)

PATH = "/shutdown"


class ShutdownRoute:
    """The route. stop: called once the response is sent."""

    def __init__(self, stop: Callable[[], None], kernel: KernelAddresses) -> None:
        self._stop, self._kernel = stop, kernel

    def __call__(self, request: Request) -> Response:
        """Stop the process; raises HTTPError with 403 for other clients."""
        if _is_indirect(request) or not self._is_allowed(request):
            logger.warning("refused to shut down for %s", request.peer)
            raise HTTPError(403, SHUTDOWN_REFUSED)
        logger.info("%s asks to shut down", request.peer)
        return json_message(200, "Shutting down...")._replace(after=self._stop)

    def _is_allowed(self, request: Request) -> bool:
        self._kernel.refresh()  # a former address of the Kernel must not do
        return self._kernel.includes(request.peer, request.local)


def _is_indirect(request: Request) -> bool:
    """Tell whether a browser sent this, but for a page of ours, or a proxy forwarded it."""
    if request.head.is_forwarded:
        return True
    if initiator(request.head) is Initiator.SAME_ORIGIN:
        return False
    return browser_sign(request.head) is not None
