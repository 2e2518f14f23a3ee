"""The TLS context of every client: which CAs are trusted."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path

from kuwa_min.options.text_file import InvalidTextFile, read_text

CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)
CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def create_tls_context() -> ssl.SSLContext:
    """Return a context that verifies certificates; raises OSError for CAs that cannot be read.

    Trusted are the CAs in all files and folders that CA_VARIABLES of the environment name; if none
    does, those of the system, or of certifi where the system has none. OpenSSL, httpx, requests and
    curl each read some of these variables: here one rule holds for every service.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    named = {path: name for name in CA_VARIABLES if (path := os.environ.get(name))}
    for path, name in named.items():  # each once: they often name the same
        is_folder = name == "SSL_CERT_DIR" or Path(path).is_dir()
        if is_folder:
            context.load_verify_locations(capath=path)
        else:
            _trust_file(context, name, path)
    if named:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate CA will do
        return context
    context.load_default_certs()
    if not _has_default_cas() and (path := _find_cas()):
        context.load_verify_locations(path)
    return context


def _trust_file(context: ssl.SSLContext, variable: str, path: str) -> None:
    """Trust the CAs in a PEM file, which may have been saved as UTF-16; raises OSError."""
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        try:
            text = read_text(path).encode("ascii", "ignore").decode()  # comments may be in any
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError, InvalidTextFile):
            reason = f"{variable}={path} holds no certificate in PEM form"
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, reason) from None
    except OSError as error:
        error.strerror = f"{variable}={path}: {error.strerror}"
        raise


def _has_default_cas() -> bool:
    """Tell whether there are CAs where this Python was built to look for them."""
    paths = ssl.get_default_verify_paths()
    folder = paths.capath and any(Path(paths.capath).glob("*.0"))
    return bool(paths.cafile or folder or os.name == "nt")


def _find_cas() -> str | None:
    """Return a file of CAs: the system's, else certifi's."""
    for path in CA_FILES:
        if Path(path).is_file():
            return path
    with contextlib.suppress(ImportError):
        import certifi

        bundled: str = certifi.where()
        return bundled
    return None
