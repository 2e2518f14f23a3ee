"""Which addresses are public and not our own; on every Python of this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backends._media import addresses
from tests.support.programs import ROOT
from tests.support.pythons import python_of

PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "192.0.1.0",
    "223.255.255.255",
    "2606:4700::1111",
    "2001:200::1",
    "2a00:1450:4001::1",
)
NOT_PUBLIC = (
    *("0.0.0.0", "0.255.255.255", "10.1.2.3", "100.64.0.0", "127.0.0.1", "169.254.0.1"),
    *("172.16.0.0", "172.31.255.255", "192.0.0.9", "192.0.2.2", "192.88.99.1", "192.168.0.1"),
    *("198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1", "240.0.0.1"),
    "255.255.255.255",
    # metadata of clouds: Azure, Oracle, most, Alibaba, AWS, Google
    *("168.63.129.16", "192.0.0.192", "169.254.169.254", "100.100.100.200"),
    *("fd00:ec2::254", "fd20:ce::254"),
    # with an IPv4 address inside: mapped, compatible, translated, NAT64, 6to4, Teredo
    *("::ffff:8.8.8.8", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:1::1"),
    *("::", "::1", "fe80::1%eth0", "fec0::1", "fc00::1", "ff02::1", "100::1", "5f00::1"),
    *("2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1"),
)
CALL = """
import json, sys
sys.path.insert(0, sys.argv[1])
import addresses
print(json.dumps([addresses.is_public(one) for one in json.loads(sys.argv[2])]))
"""
COMPARE = """
import sys
sys.path.insert(0, sys.argv[1])
import addresses
ends = [(block, int(one)) for block in (*addresses.SPECIAL_IPV4, *addresses.SPECIAL_IPV6,
        addresses.UNICAST_IPV6) for one in (block[0], block[-1])]
near = [(block, one + step) for block, one in ends for step in (-1, 0, 1)]
found = [type(block[0])(one) for block, one in near if 0 <= one < 1 << block.max_prefixlen]
print([str(one) for one in found if addresses.is_public(str(one)) and not one.is_global])
"""
# A machine with one address, which is public; from tests/.
NETWORK = """
import fcntl, socket, struct, sys, threading
from backends._media import addresses, fetch
from backends._media.fetch_policy import FetchPolicy, LinkError

SIOCSIFFLAGS, SIOCSIFADDR, UP_AND_RUNNING = 0x8914, 0x8916, 0x41
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    flags = struct.pack("16sH22x", b"lo", UP_AND_RUNNING)
    fcntl.ioctl(control, SIOCSIFFLAGS, flags)
    address = struct.pack("16sH2x4s16x", b"lo:1", socket.AF_INET, socket.inet_aton("8.8.4.4"))
    fcntl.ioctl(control, SIOCSIFADDR, address)
listener = socket.create_server(("8.8.4.4", 0))
asked = []

def serve():
    while True:
        with listener.accept()[0] as sock:
            asked.append(sock.recv(4096).split()[1])
            sock.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\nhello")

threading.Thread(target=serve, daemon=True).start()
for policy in (FetchPolicy(), FetchPolicy(allow_private=True)):
    try:
        url = f"http://8.8.4.4:{listener.getsockname()[1]}/{policy.allow_private}"
        print(fetch.fetch(url, policy, limit=len).decode())
    except LinkError as error:
        print(error)
print(asked, addresses.is_public("8.8.4.4"))
"""


@pytest.mark.parametrize("minor", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_it_is_the_same_on_every_python(minor: str) -> None:
    """Whose own tables differ."""
    folder, words = Path(addresses.__file__).parent, json.dumps([*PUBLIC, *NOT_PUBLIC])
    command = [python_of(minor), "-Ic", CALL, str(folder), words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = dict(zip([*PUBLIC, *NOT_PUBLIC], json.loads(done.stdout), strict=True))
    assert [one for one in PUBLIC if not found[one]] == []
    assert [one for one in NOT_PUBLIC if found[one]] == []


def test_nothing_is_public_that_the_newest_python_calls_special() -> None:
    """At both ends of every block that we know, and beside it."""
    folder = Path(addresses.__file__).parent
    command = [python_of("3.13"), "-Ic", COMPARE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("address", "is_metadata"),
    [
        *(("169.254.169.254", True), ("168.63.129.16", True), ("fd00:ec2::254", True)),
        *(("::ffff:169.254.169.254", True), ("64:ff9b::a9fe:a9fe", True)),
        *(("::169.254.169.254", True), ("64:ff9b:1::a9fe:a9fe", True)),
        *(("::ffff:0:169.254.169.254", True), ("::1", False)),
        *(("169.254.1.1", False), ("10.0.0.1", False), ("::1", False), ("fe80::1%eth0", False)),
    ],
)
def test_metadata_services_are_known_however_they_are_written(
    address: str, is_metadata: bool
) -> None:
    """Also inside an IPv6 address."""
    assert addresses.is_metadata(address) == is_metadata


def test_our_own_addresses_are_known() -> None:
    """Of loopback, every one; and the one that this machine would send from."""
    assert all(map(addresses.is_own, ("127.0.0.1", "127.1.2.3")))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.77", 9))
        except OSError:
            pytest.skip("this machine has no network")
        assert addresses.is_own(probe.getsockname()[0])
    assert not addresses.is_own("192.0.2.77")


def test_no_ipv6_address_of_another_machine_is_ours() -> None:
    """Whether or not there is a way to it."""
    assert not addresses.is_own("2001:db8::77")
    assert not addresses.is_own("fe80::77%1")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a network of its own")
def test_a_link_to_our_own_public_address_is_not_fetched() -> None:
    """In a network of its own, whose one address is public; with --allow_private_urls it is."""
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", NETWORK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("no network of one's own can be made here")
    assert done.stdout.splitlines() == [
        "a link was not read: its server is unknown here or on a private network.",
        "hello",
        "[b'/True'] True",
    ], done.stderr
