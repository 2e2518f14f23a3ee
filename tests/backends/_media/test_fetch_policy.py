"""Which links may lead into a private network: uploads of the site, and nothing by accident."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

from backends._media.fetch_policy import parse, policy


def options(**given: Any) -> Namespace:
    """Return the options of a backend that fetches."""
    usual = {
        "kernel_url": "http://kernel:9000/",
        "ignore_kernel": False,
        "embedded_kernel": None,
        "upload_hosts": [],
        "allow_private_urls": False,
    }
    return Namespace(**{**usual, **given})


@pytest.mark.parametrize(
    ("url", "trusted"),
    [
        ("http://kernel/storage/root/homes/3/a%20b.png", True),
        ("https://kernel/storage/pdfs/3/%E5%9C%96.png", True),
        ("http://KERNEL:9000/kuwa/storage/root/homes/3/a.png?v=2", True),
        ("http://kernel:8080/storage/root/homes/3/a.png", False),
        ("http://kernel.example/storage/root/homes/3/a.png", False),
        ("http://kernel:9000/v1.0/model/download?model_name=/storage/", False),
        ("http://kernel:9000/storage/../v1.0/worker/list", False),
        ("http://kernel:9000/storage/%2e%2e/v1.0/worker/list", False),
        ("http://kernel:9000/storage/%2e%2e%2fv1.0/worker/list", False),
        ("http://kernel:9000/storage/..\\v1.0/worker/list", False),
        ("http://web/a.png", True),
        ("https://web/any/where", True),
        ("http://web:8080/a.png", False),
        ("http://files:8080/a.png", True),
        ("http://files/a.png", False),
        ("http://[::1]:81/a.png", True),
        ("http://localhost/storage/a.png", False),
    ],
)
def test_uploads_of_the_site_may_be_private(url: str, trusted: bool) -> None:
    """All of the hosts that are named; of the Kernel's host uploads, and no order to the Kernel."""
    hosts = [("Web", None), ("files", 8080), ("::1", 81)]
    assert policy(options(upload_hosts=hosts)).names(parse(url)) is trusted


def test_the_kernels_host_has_all_names_of_loopback() -> None:
    """The front end calls itself localhost where the Kernel is 127.0.0.1; without Kernel, none."""
    target = parse("http://localhost/storage/root/homes/1/a.png")
    here = {"kernel_url": "http://127.0.0.1:9000/"}
    assert policy(options(**here)).names(target)
    assert not policy(options(**here, ignore_kernel=True)).names(target)
    assert not policy(options(**here, embedded_kernel=("127.0.0.1", 9000))).names(target)
