"""Which CAs are trusted."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from backends._http.origin import Origin
from backends._http.tls import CA_VARIABLES, create_tls_context
from backends._http.transport_errors import ConnectionFailed, Failure
from tests.support.certificates import make_certificate
from tests.support.programs import TIMEOUT
from tests.support.saved_as import SAVED_AS

from .asking import ask


def connects(listener: socket.socket, server: ssl.SSLContext) -> bool:
    """Tell whether a request over TLS is answered, by a server that answers it."""

    def serve() -> None:
        sock, _ = listener.accept()
        with suppress(OSError), server.wrap_socket(sock, server_side=True) as service:
            service.recv(65536)
            service.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        port = listener.getsockname()[1]
        return ask(Origin("https", "127.0.0.1", port), create_tls_context) == b"ok"
    except ConnectionFailed as failed:
        assert failed.failure is Failure.CERTIFICATE
        assert "SSL_CERT_FILE" in str(failed)
        return False
    finally:
        thread.join(TIMEOUT)


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_the_environment_names_the_cas(
    listener: socket.socket, tmp_path: Path, clean: pytest.MonkeyPatch, variable: str
) -> None:
    """By the variables of OpenSSL, of requests and of curl; several add up."""
    certificate, key = make_certificate(tmp_path, "one.test")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    for name in CA_VARIABLES:
        clean.delenv(name, raising=False)
    assert not connects(listener, server)
    other = "SSL_CERT_FILE" if variable != "SSL_CERT_FILE" else "CURL_CA_BUNDLE"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{hash_of(certificate)}.0").write_bytes(certificate.read_bytes())
    clean.setenv(variable, str(folder if variable == "SSL_CERT_DIR" else certificate))
    assert connects(listener, server)
    clean.setenv(other, str(make_certificate(folder, "two.test")[0]))
    assert connects(listener, server)


def hash_of(certificate: Path) -> str:
    """Return the name under which OpenSSL looks for a CA in a folder."""
    command = ["openssl", "x509", "-noout", "-hash", "-in", str(certificate)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_ca_file_may_be_saved_on_windows(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    """PowerShell writes what it redirects in UTF-16."""
    certificate, _ = make_certificate(tmp_path, "one.test")
    text = f"# 根憑證\n{certificate.read_text(encoding='ascii')}"
    clean.setenv("SSL_CERT_FILE", str(certificate))
    for saved in SAVED_AS.values():
        certificate.write_bytes(saved(text))
        trusted = [one["subject"] for one in create_tls_context().get_ca_certs()]
        assert ((("commonName", "one.test"),),) in trusted


@pytest.mark.parametrize("data", [b"", b"\x30\x82\x01\x0a\xff", "憑證".encode("cp950")])
def test_a_file_without_certificates_is_named(
    tmp_path: Path, clean: pytest.MonkeyPatch, data: bytes
) -> None:
    """With the variable that names it."""
    file = tmp_path / "ca.pem"
    file.write_bytes(data)
    clean.setenv("CURL_CA_BUNDLE", str(file))
    with pytest.raises(ssl.SSLError) as refused:
        create_tls_context()
    assert refused.value.strerror == f"CURL_CA_BUNDLE={file} holds no certificate in PEM form"


def test_a_missing_ca_file_is_an_error(clean: pytest.MonkeyPatch) -> None:
    """Rather than trusting anything else."""
    clean.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    with pytest.raises(FileNotFoundError) as refused:
        create_tls_context()
    assert refused.value.strerror == "REQUESTS_CA_BUNDLE=/no/such/file: No such file or directory"
