"""Tell which addresses of servers are on the public internet, and not this machine's own.

Python's own `is_global` differs from version to version; the blocks below are those of IANA's
registries of special-purpose addresses, which the newest one knows, and of clouds. Needs nothing
of ours, so that it can be tried on every Python.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket

SPECIAL_IPV4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # "this" network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by carriers; metadata of Alibaba Cloud
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # metadata of Azure
            "169.254.0.0/16",  # link-local; metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments; metadata of Oracle Cloud
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
# Unicast of the internet. Outside of it is what is private (also fd00:ec2::254, metadata of AWS),
# local, multicast, and what carries an IPv4 address inside: ::/96, ::ffff:0:0/96, 64:ff9b::/32.
UNICAST_IPV6 = ipaddress.IPv6Network("2000::/3")
SPECIAL_IPV6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments; Teredo, which carries an IPv4 address inside
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which carries an IPv4 address inside
            "3fff::/20",  # documentation
        ),
    )
)
METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # most clouds
            *("169.254.170.2", "169.254.170.23", "fd00:ec2::23", "fd00:ec2::254"),  # AWS
            "fd20:ce::254",  # Google
            "168.63.129.16",  # Azure
            "192.0.0.192",  # Oracle Cloud
            "100.100.100.200",  # Alibaba Cloud
            "169.254.0.23",  # Tencent Cloud
        ),
    )
)
# Prefixes of addresses whose last 32 bits are the IPv4 address that is reached: compatible, mapped,
# translated, NAT64.
IPV4_INSIDE = tuple(
    map(
        ipaddress.IPv6Network,
        ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
    )
)


def is_metadata(address: str) -> bool:
    """Tell whether an address is a cloud's metadata service, which gives out keys."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if any(number in prefix for prefix in IPV4_INSIDE):
        number = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    return number in METADATA


def is_public(address: str) -> bool:
    """Tell whether an address, as getaddrinfo() returns it, is one of the public internet."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv4Address):
        return not any(number in block for block in SPECIAL_IPV4)
    return number in UNICAST_IPV6 and not any(number in block for block in SPECIAL_IPV6)


def is_own(address: str) -> bool:
    """Tell whether an address is one of this machine's: packets to it would come from itself.

    Sends nothing. An address that cannot be reached is not ours.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((address, 9))  # any port: a datagram socket only looks for the route
        source = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
        return source.is_loopback or source == ipaddress.ip_address(address.partition("%")[0])
    return False
