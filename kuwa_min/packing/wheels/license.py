"""Find the license of a package in its METADATA, as an SPDX expression where possible."""

from __future__ import annotations

import re
from email.message import Message
from email.parser import HeaderParser

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

LONGEST = 60  # characters of a field that is a name; a longer one is a text
NO_NAMES = ("unknown", "none", "dual license")

# Common names without "the", "license" and commas, in lower case: their SPDX ids.
ALIASES = {
    "mit no attribution": "MIT-0",
    "expat": "MIT",
    "apache 2": "Apache-2.0",
    "apache version 2.0": "Apache-2.0",
    "apache software 2.0": "Apache-2.0",
    "3-clause bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "revised bsd": "BSD-3-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "isc (iscl)": "ISC",
    "mozilla public 2.0 (mpl 2.0)": "MPL-2.0",
    "gnu general public v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public v3 or later (lgplv3+)": "LGPL-3.0-or-later",
}
# The beginnings of license texts, in lower case and with single spaces.
BEGINNINGS = {
    "mit license": "MIT",
    "the mit license": "MIT",
    "permission is hereby granted, free of charge": "MIT",
    "apache license version 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "bsd 3-clause license": "BSD-3-Clause",
    "new bsd license": "BSD-3-Clause",
    "bsd 2-clause license": "BSD-2-Clause",
    "isc license": "ISC",
    "mozilla public license version 2.0": "MPL-2.0",
    "mozilla public license, version 2.0": "MPL-2.0",
}


def license_of(metadata_text: str) -> str:
    """Return the license that a METADATA file declares; "" if it declares none.

    An SPDX expression is preferred to a name: the field License precedes the classifiers only if
    it is one, since "BSD-3-Clause" is more precise than "OSI Approved :: BSD License".
    """
    metadata = HeaderParser().parsestr(metadata_text)
    expression = str(metadata["License-Expression"] or "").strip()
    field = str(metadata["License"] or "").strip()
    return (
        spdx_expression(expression)
        or expression
        or _spdx(field)
        or _classified(metadata, "License :: OSI Approved :: ")
        or _name(field)
        or _classified(metadata, "License :: ")
    )


def spdx_expression(text: str) -> str:
    """Return a text as a canonical SPDX license expression; "" if it is none."""
    try:
        return canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return ""


def _spdx(name: str) -> str:
    """Return the SPDX expression of a name or of a license text; "" if it is unknown.

    "MPL 2.0" and "The Unlicense (Unlicense)" name their ids, too.
    """
    text = " ".join(name.split())
    if len(text) > LONGEST:
        return next((BEGINNINGS[one] for one in BEGINNINGS if text.lower().startswith(one)), "")
    plain = " ".join(re.sub(r"(?i)\b(the|licen[cs]e)\b|,", "", text).split())
    in_parentheses = plain.partition("(")[2].removesuffix(")")
    return (
        ALIASES.get(plain.lower())
        or spdx_expression(plain)
        or spdx_expression(plain.replace(" ", "-"))
        or spdx_expression(in_parentheses)
    )


def _classified(metadata: Message, start: str) -> str:
    """Return the licenses of the classifiers with this beginning."""
    found = [str(line) for line in metadata.get_all("Classifier", [])]
    names = [line.rpartition(" :: ")[2] for line in found if line.startswith(start)]
    return ", ".join(_spdx(name) or name for name in names if name != "OSI Approved")


def _name(field: str) -> str:
    """Return the first line of a field if it is a name, and neither a text nor a file's name."""
    line = field.splitlines()[0].strip() if field else ""
    is_file = re.fullmatch(r"(un)?licen[cs]e(\.\w+)?", line.lower()) is not None
    return "" if len(line) > LONGEST or is_file or line.lower() in NO_NAMES else line
