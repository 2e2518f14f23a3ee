"""Ask one question from the command line: read --quick, measure, print the table."""

import argparse
from collections.abc import Callable

from harness.table import Table

Measure = Callable[[bool], Table]


def quick_wanted(description: str | None) -> bool:
    """Read the command line; say whether fewer rounds will do."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a first impression")
    return bool(parser.parse_args().quick)


def ask(measure: Measure, description: str | None) -> None:
    """Measure and print the answer."""
    print(measure(quick_wanted(description)))
