"""The TLS context of --tls_cert and --tls_key; imported if they are given, as ssl takes long."""

from __future__ import annotations

import ssl

from kuwa_min.errors import UsageError


def create_tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a server's context with these PEM files; raises UsageError if they cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        others = [path for path in (certificate, key) if _is_not_pem(path)]
        hint = f"; {others[0]} is no PEM text in UTF-8 (-----BEGIN ...)" if others else ""
        raise UsageError(
            f"cannot use --tls_cert {certificate}: {error.strerror or error}{hint}"
        ) from None
    return context


def _is_not_pem(path: str) -> bool:
    """Tell whether a file can be read, but not as PEM: it is DER, or saved in UTF-16."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib takes long to load
            return b"-----BEGIN" not in file.read()
    except OSError:
        return False
