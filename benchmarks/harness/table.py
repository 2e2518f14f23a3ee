"""Hold what was measured as rows of ours against another, and lay them out; knows no clock."""

from dataclasses import dataclass, field

HEADINGS = ("", "ours", "against", "value", "ratio", "goal", "met")
LEFT_ALIGNED = (0, 2)


@dataclass(frozen=True)
class Row:
    """State one comparison; `met` is None where nothing was promised."""

    what: str
    ours: float
    against: str
    value: float
    ratio: str
    goal: str = "-"
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, column by column."""
        met = {True: "yes", False: "NO", None: "-"}[self.met]
        return (
            self.what,
            number(self.ours),
            self.against,
            number(self.value),
            self.ratio,
            self.goal,
            met,
        )


@dataclass
class Table:
    """Hold the answer to one question: a title that names the unit and n, rows, and remarks."""

    title: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Lay the table out in aligned columns."""
        grid = [HEADINGS, *(row.cells() for row in self.rows)]
        widths = [max(len(cells[column]) for cells in grid) for column in range(len(HEADINGS))]
        lines = ["  ".join(_aligned(cells, widths)).rstrip() for cells in grid]
        return "\n".join([self.title, *lines, *(f"  ({remark})" for remark in self.remarks)])


def number(value: float) -> str:
    """Write a value with about three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def beside(what: str, ours: float, against: str, value: float) -> Row:
    """Compare without a goal."""
    return Row(what, ours, against, value, number(ours / value) if value else "-")


def at_most(what: str, ours: float, against: str, value: float, limit: float) -> Row:
    """Promise ours to be at most `limit` times the other."""
    ratio = ours / value
    return Row(what, ours, against, value, number(ratio), f"<= {limit:g} x", ratio <= limit)


def at_least(what: str, ours: float, against: str, value: float, limit: float) -> Row:
    """Promise ours to be at least `limit` times the other."""
    ratio = ours / value
    return Row(what, ours, against, value, number(ratio), f">= {limit:g} x", ratio >= limit)


def within(what: str, ours: float, against: str, value: float, margin: float) -> Row:
    """Promise ours to exceed the other by at most `margin`, in the table's unit."""
    goal = f"<= +{margin:g}"
    return Row(what, ours, against, value, number(ours / value), goal, ours - value <= margin)


def all_of(what: str, ours: int, against: str, value: int, wanted: int) -> Row:
    """Promise a count to be complete."""
    ratio = number(ours / value) if value else "-"
    return Row(what, ours, against, value, ratio, f"= {wanted:,}", ours == wanted)


def _aligned(cells: tuple[str, ...], widths: list[int]) -> list[str]:
    return [
        cell.ljust(width) if column in LEFT_ALIGNED else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
