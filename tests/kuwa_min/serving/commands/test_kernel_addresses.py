"""The peers that are known as the Kernel's host or this machine."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from kuwa_min.serving.commands import kernel_addresses
from kuwa_min.serving.commands.kernel_addresses import KernelAddresses


@pytest.mark.parametrize(
    ("peer", "kernel_url", "may"),
    [
        ("127.0.0.1", "http://192.0.2.7:9000/", True),
        ("127.8.8.8", "http://192.0.2.7:9000/", True),
        ("::1", "http://192.0.2.7:9000/", True),
        ("::ffff:127.0.0.1", "http://192.0.2.7:9000/", True),
        ("192.0.2.7", "http://192.0.2.7:9000/", True),
        ("::ffff:192.0.2.7", "http://192.0.2.7:9000/", True),
        ("2001:db8::7", "http://[2001:db8::7]:9000/", True),
        ("2001:db8:0::7%eth0", "http://[2001:db8::7]:9000/", True),
        ("192.0.2.8", "http://192.0.2.7:9000/", False),
        ("::ffff:192.0.2.8", "http://192.0.2.7:9000/", False),
        ("192.0.2.8", "http://kernel.invalid:9000/", False),
        ("", "http://192.0.2.7:9000/", False),
        ("nonsense", "http://192.0.2.7:9000/", False),
    ],
)
def test_this_machine_and_the_kernels_host_may_command(
    peer: str, kernel_url: str, may: bool
) -> None:
    """No other client, however its address is written."""
    assert KernelAddresses(lambda: kernel_url).includes(peer) is may


@pytest.mark.parametrize(
    ("peer", "own", "kernel_url", "may"),
    [
        ("192.0.2.5", "192.0.2.5", "http://127.0.0.1:9000/", True),
        ("192.0.2.5", "::ffff:192.0.2.5", "http://127.0.0.1:9000/", True),
        ("192.0.2.6", "192.0.2.5", "http://127.0.0.1:9000/", False),
        ("192.0.2.5", "192.0.2.5", "http://192.0.2.7:9000/", False),
        ("192.0.2.6", "", "http://127.0.0.1:9000/", False),
    ],
)
def test_a_kernel_on_this_machine_may_command_by_our_address(
    peer: str, own: str, kernel_url: str, may: bool
) -> None:
    """It connects to what it was told; a Kernel elsewhere has no reason to."""
    assert KernelAddresses(lambda: kernel_url).includes(peer, own) is may


class Resolver:
    """Stands in for getaddrinfo and the clock of lookups."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: tuple[str, ...] | None = addresses
        self.lookups, self.now = 0, 1000.0

    def getaddrinfo(self, host: str, *_: object, **__: object) -> list[Any]:
        """Resolve any name."""
        assert host == "kernel"
        self.lookups += 1
        if self.addresses is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(0, 0, 0, "", (address, 0)) for address in self.addresses]

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Resolve the name to two addresses."""
    made = Resolver("192.0.2.7", "2001:db8::7")
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(kernel_addresses.time, "monotonic", made.monotonic)
    return made


@pytest.fixture
def kernel() -> KernelAddresses:
    """Return the addresses of a Kernel that has a name."""
    return KernelAddresses(lambda: "http://kernel:9000/")


def test_every_address_of_the_kernels_name_may_command(
    resolver: Resolver, kernel: KernelAddresses
) -> None:
    """One lookup is enough for all that are known, for as long as nothing else is asked."""
    assert str(kernel) == "not known yet"
    for _ in range(3):
        assert kernel.includes("192.0.2.7")
        assert kernel.includes("2001:db8::7")
        resolver.now += 1000
    assert resolver.lookups == 1
    assert not kernel.includes("192.0.2.9")
    assert str(kernel) == "192.0.2.7, 2001:db8::7"


def test_a_new_address_is_found_at_once_but_strangers_cause_few_lookups(
    resolver: Resolver, kernel: KernelAddresses
) -> None:
    """Look up for an unknown peer, once a second at most."""
    for _ in range(10):
        assert not kernel.includes("192.0.2.9")
    assert resolver.lookups == 1
    resolver.addresses = ("192.0.2.9",)
    resolver.now += kernel_addresses.LOOKUP_INTERVAL
    assert kernel.includes("192.0.2.9")
    assert not kernel.includes("192.0.2.7")


def test_a_lookup_is_repeated_and_its_failure_changes_nothing(
    resolver: Resolver, kernel: KernelAddresses
) -> None:
    """The name server may be down when a person presses stop."""
    kernel.refresh()
    resolver.addresses = None
    resolver.now += kernel_addresses.FRESH_SECONDS
    kernel.refresh()
    assert resolver.lookups == 2
    assert kernel.includes("192.0.2.7")
    resolver.addresses = ("192.0.2.8",)
    resolver.now += kernel_addresses.FRESH_SECONDS - 1
    kernel.refresh()
    assert kernel.includes("192.0.2.7")
    resolver.now += 1
    kernel.refresh()
    assert not kernel.includes("192.0.2.7")
    assert kernel.includes("192.0.2.8")


def test_a_known_peer_does_not_wait_for_a_lookup(
    resolver: Resolver, kernel: KernelAddresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a lookup for a stranger take long: the Kernel and this machine are answered."""
    kernel.refresh()
    resolver.now += kernel_addresses.FRESH_SECONDS
    begun, release = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> list[Any]:
        begun.set()
        release.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    stranger = threading.Thread(target=kernel.includes, args=("192.0.2.9",))
    stranger.start()
    try:
        assert begun.wait(60)
        assert kernel.includes("192.0.2.7")
        assert kernel.includes("127.0.0.1")
    finally:
        release.set()
        stranger.join()
