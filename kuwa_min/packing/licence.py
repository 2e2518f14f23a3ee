"""The licence of a package, as its METADATA says it."""

from __future__ import annotations

import re
from email.message import Message
from email.parser import HeaderParser

from kuwa_min.inventory import is_expression

LONGEST = 60  # characters of a field that is a name; what is longer is a text
NO_NAMES = ("unknown", "none", "dual license")

# Names that people give to what SPDX has an id for; lower case, without the, license and commas.
ALIASES = {
    "mit": "MIT",
    "mit (mit)": "MIT",
    "mit no attribution": "MIT-0",
    "mit no attribution (mit-0)": "MIT-0",
    "expat": "MIT",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache version 2.0": "Apache-2.0",
    "apache software 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "revised bsd": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "isc": "ISC",
    "isc (iscl)": "ISC",
    "mozilla public 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "unlicense (unlicense)": "Unlicense",
    "gnu general public v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public v3 or later (lgplv3+)": "LGPL-3.0-or-later",
}
# How whole texts begin, once they are lower case and their white space is single spaces.
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


def licence_of(metadata_text: str) -> str:
    """Return the licence that a METADATA file declares; "" when it declares none.

    What SPDX has an id for goes by that id. The field License is asked before the classifiers only
    when it is that precise: "BSD-3-Clause" says more than "OSI Approved :: BSD License".
    """
    metadata = HeaderParser().parsestr(metadata_text)
    field = str(metadata["License"] or "").strip()
    precise = _spdx(field)
    return (
        str(metadata["License-Expression"] or "").strip()
        or (precise if is_expression(precise) else "")
        or _classified(metadata, "License :: OSI Approved :: ")
        or _name(field)
        or _classified(metadata, "License :: ")
    )


def _spdx(name: str) -> str:
    """Return the id for a name or a text that we know, else the same."""
    text = " ".join(name.split()).lower()
    if len(text) > LONGEST:
        return next((BEGINNINGS[start] for start in BEGINNINGS if text.startswith(start)), name)
    return ALIASES.get(" ".join(re.sub(r"\b(the|licen[cs]e)\b|,", "", text).split()), name)


def _classified(metadata: Message, start: str) -> str:
    """Return what the classifiers that begin so end with."""
    found = [str(line) for line in metadata.get_all("Classifier", [])]
    names = [line.rpartition(" :: ")[2] for line in found if line.startswith(start)]
    return ", ".join(_spdx(name) for name in names if name != "OSI Approved")


def _name(field: str) -> str:
    """Return the field's first line if that is a name and no text, nor a file's name."""
    line = field.splitlines()[0].strip() if field else ""
    is_file = re.fullmatch(r"(un)?licen[cs]e(\.\w+)?", line.lower()) is not None
    return "" if len(line) > LONGEST or is_file or line.lower() in NO_NAMES else line
