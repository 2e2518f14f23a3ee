"""Ask every question, print a table each, and count the goals that are met."""

import time

from core import first_piece, framed, many_slow, memory, start, throughput
from harness.question import quick_wanted

QUESTIONS = (start, throughput, framed, first_piece, memory, many_slow)


def main() -> None:
    """Measure one question after the other."""
    quick = quick_wanted(__doc__)
    began = time.monotonic()
    verdicts = []
    for question in QUESTIONS:
        table = question.measure(quick)
        print(table, end="\n\n", flush=True)
        verdicts += [row.met for row in table.rows if row.met is not None]
    minutes = (time.monotonic() - began) / 60
    print(f"{sum(verdicts)} of {len(verdicts)} goals met, in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
