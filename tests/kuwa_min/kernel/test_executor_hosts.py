"""Which executors may join: this machine's from here, others if the operator names them."""

from __future__ import annotations

import socket

import pytest

from kuwa_min.kernel import executor_hosts
from kuwa_min.kernel.executor_hosts import ExecutorHosts

HERE, ELSEWHERE = "127.0.0.1", "192.0.2.7"  # of a registration


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name stand for these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in addresses]
    monkeypatch.setattr(executor_hosts, "look_up", lambda *_: found)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]"])
def test_this_machine_registers_its_own_executors(host: str) -> None:
    """From here, and not from another machine."""
    endpoint = f"http://{host}:9/chat"
    assert ExecutorHosts().address_of(endpoint, HERE) == host.strip("[]")
    assert ExecutorHosts().address_of(endpoint, "::ffff:127.0.0.1") == host.strip("[]")
    assert ExecutorHosts().address_of(endpoint, ELSEWHERE) is None


@pytest.mark.parametrize(
    "host", ["192.0.2.7", "169.254.169.254", "0.0.0.0", "[::]", "224.0.0.1", "[ff02::1]", "8.8.8.8"]
)
@pytest.mark.parametrize("peer", [HERE, ELSEWHERE])
def test_no_other_address_is_taken(host: str, peer: str) -> None:
    """Whoever registers it: the Kernel would carry requests there, and answers back."""
    assert ExecutorHosts().address_of(f"http://{host}/chat", peer) is None


def test_a_name_is_resolved_once_and_all_of_its_addresses_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The address is what is connected to later."""
    resolve_to(monkeypatch, "127.0.0.1")
    assert ExecutorHosts().address_of("http://a.test/", HERE) == "127.0.0.1"
    resolve_to(monkeypatch, "127.0.0.1", "192.0.2.7")
    assert ExecutorHosts().address_of("http://a.test/", HERE) is None
    assert ExecutorHosts(["192.0.2.0/24"]).address_of("http://a.test/", HERE) == "127.0.0.1"
    resolve_to(monkeypatch)
    assert ExecutorHosts().address_of("http://a.test/", HERE) is None


@pytest.mark.parametrize(
    ("named", "host"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.0/24", "192.0.2.99"),
        ("gpu1.test", "GPU1.test"),
        ("2001:db8::/32", "[2001:db8::7]"),
    ],
)
@pytest.mark.parametrize("peer", [HERE, ELSEWHERE])
def test_the_operator_names_other_machines(named: str, host: str, peer: str) -> None:
    """By address, network or name; a name is the operator's word, whatever it stands for."""
    hosts = ExecutorHosts([named])
    assert hosts.address_of(f"https://{host}:1/chat", peer) == host.lower().strip("[]")
    assert hosts.address_of("http://192.0.3.1/", peer) is None


def test_a_name_that_does_not_resolve_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor asks again."""

    def fail(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(executor_hosts, "look_up", fail)
    assert ExecutorHosts().address_of("http://a.test/", HERE) is None
