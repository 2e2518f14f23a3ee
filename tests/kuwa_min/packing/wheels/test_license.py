"""The license of METADATA: as the fields of real wheels have it."""

from __future__ import annotations

import pytest

from kuwa_min.packing.wheels.license import license_of, spdx_expression

APACHE = """Apache License
                                   Version 2.0, January 2004
                                http://www.apache.org/licenses/
"""
BSD_3 = "BSD 3-Clause License\n\nCopyright (c) 2001-2015, Somebody\nAll rights reserved.\n"
MIT_BODY = "Permission is hereby granted, free of charge, to any person obtaining a copy\nof it"
SOMEBODY = "Copyright (c) 2005-2025, Somebody and many others all over the world.\nAll rights\n"
APPROVED = "License :: OSI Approved :: "


def metadata(*, expression: str = "", field: str = "", classifiers: tuple[str, ...] = ()) -> str:
    """Write METADATA with what is given."""
    lines = ["Metadata-Version: 2.4", "Name: one", "Version: 1.0"]
    lines += [f"License-Expression: {expression}"] if expression else []
    lines += ["License: " + field.replace("\n", "\n        ")] if field else []
    lines += [f"Classifier: {classifier}" for classifier in classifiers]
    return "\n".join([*lines, "Classifier: Topic :: Utilities", "", "License: of the text below\n"])


def test_the_expression_wins() -> None:
    """It is the one field with a grammar."""
    text = metadata(expression="MIT OR Apache-2.0", field="BSD", classifiers=(f"{APPROVED}X",))
    assert license_of(text) == "MIT OR Apache-2.0"


@pytest.mark.parametrize(
    ("classifier", "license"),
    [
        ("MIT License", "MIT"),
        ("ISC License (ISCL)", "ISC"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
        ("The Unlicense (Unlicense)", "Unlicense"),
        ("BSD License", "BSD License"),
        ("Apache Software License", "Apache Software License"),
    ],
)
def test_a_classifier_is_next(classifier: str, license: str) -> None:
    """Its last part; by SPDX's id where it can mean one license only."""
    assert license_of(metadata(classifiers=(APPROVED + classifier,))) == license


def test_a_precise_field_says_more_than_a_classifier() -> None:
    """An id says which BSD license it is; "BSD" does not."""
    bsd = (f"{APPROVED}BSD License",)
    assert license_of(metadata(field="BSD-3-Clause", classifiers=bsd)) == "BSD-3-Clause"
    assert license_of(metadata(field="BSD", classifiers=bsd)) == "BSD License"


def test_several_classifiers_are_all_named() -> None:
    """Which of them applies cannot be told."""
    both = (f"{APPROVED}BSD License", f"{APPROVED}MIT License")
    assert license_of(metadata(field="Dual License", classifiers=both)) == "BSD License, MIT"


@pytest.mark.parametrize(
    ("field", "license"),
    [
        ("MIT", "MIT"),
        ("MIT license", "MIT"),
        ("Apache 2.0 License", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("3-Clause BSD License", "BSD-3-Clause"),
        ("MPL-2.0 AND MIT", "MPL-2.0 AND MIT"),
        ("GPLv3", "GPLv3"),
        ("MPL 2.0", "MPL-2.0"),
        ("MIT No Attribution License (MIT-0)", "MIT-0"),
        ("NVIDIA Proprietary Software", "NVIDIA Proprietary Software"),
        (APACHE, "Apache-2.0"),
        (BSD_3, "BSD-3-Clause"),
        (MIT_BODY, "MIT"),
        ("CVXOPT version 1.3\n\n" + SOMEBODY, "CVXOPT version 1.3"),
        (SOMEBODY, ""),
        ("UNKNOWN", ""),
        ("LICENSE.txt", ""),
    ],
)
def test_a_field_is_a_name_or_a_text_that_is_recognised(field: str, license: str) -> None:
    """A whole text is known by how it begins; what is neither is nothing."""
    assert license_of(metadata(field=field)) == license


def test_a_proprietary_classifier_is_the_last_word() -> None:
    """It counts when nothing else says more."""
    classifiers = ("License :: Other/Proprietary License",)
    assert license_of(metadata(classifiers=classifiers)) == "Other/Proprietary License"
    named = metadata(field="LicenseRef-NVIDIA-Proprietary", classifiers=classifiers)
    assert license_of(named) == "LicenseRef-NVIDIA-Proprietary"


@pytest.mark.parametrize("classifiers", [(), ("License :: OSI Approved",)])
def test_nothing_declared_is_nothing(classifiers: tuple[str, ...]) -> None:
    """The description below the fields is not asked."""
    assert license_of(metadata(classifiers=classifiers)) == ""


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("MIT", "MIT"),
        ("mit or apache-2.0", "MIT OR Apache-2.0"),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "MPL-2.0 AND (Apache-2.0 OR MIT)"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
        ("LicenseRef-NVIDIA-Proprietary", "LicenseRef-NVIDIA-Proprietary"),
        ("", ""),
        ("BSD", ""),
        ("MIT License", ""),
        ("MIT AND", ""),
        ("(MIT", ""),
    ],
)
def test_an_expression_is_told_from_a_name(text: str, expression: str) -> None:
    """In SPDX's own spelling."""
    assert spdx_expression(text) == expression
