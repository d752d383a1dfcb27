"""What a terminal shows at the end of a run: the results, as many columns as it is wide for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from fewcore.progress import printable
from fewcore.reports.result_tables import results_tables
from fewcore.reports.tables import Cell, Table

if TYPE_CHECKING:
    from fewcore.reports.report import RunReport

PADDING = 3
"""Characters between two columns: a blank on each side and the line."""
WIDEST_NAME = 36
"""The share of names, in characters, that no column of numbers can take away."""


@dataclass(frozen=True, eq=False)
class Summary:
    """The results of a run for a terminal: a table for each evaluator, a row for each model.

    The best number of a column stands in bold, the paper's below it. Columns that do not fit are counted, not squeezed:
    they are in `metrics.csv`.
    """

    report: RunReport

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the tables at the width of the console."""
        shown = [table for table in results_tables(self.report) if table.rows and not table.folded]
        name = self.report.title or self.report.name
        for table in shown:
            n = _fitting(table, options.max_width)
            left = len(table.columns) - n
            yield _text(name if len(shown) == 1 else f"{name}: {table.title}", "bold")
            yield _rich_table(table, n)
            if left:
                yield _text(f"{left} more column{'s' if left > 1 else ''}: see metrics.csv or report.html.")
            yield _text(table.note, "dim")


def _fitting(table: Table, width: int) -> int:
    """Return how many columns fit into `width` characters, the first, which may fold, and one more at least."""
    wide = [max(_width(cell) for cell in column) + PADDING for column in _columns(table)]
    room = width - 1 - min(wide[0], WIDEST_NAME + PADDING)
    n = 1
    while n < len(wide) and (room := room - wide[n]) >= 0:
        n += 1
    return max(n, min(2, len(wide)))


def _columns(table: Table) -> Sequence[Sequence[Cell]]:
    return [list(cells) for cells in zip(table.columns, *table.rows, strict=True)]


def _width(cell: Cell) -> int:
    return max(len(line) for line in (*cell.text.splitlines(), *cell.note.splitlines(), ""))


def _rich_table(table: Table, n: int) -> RichTable:
    made = RichTable()
    for index, head in enumerate(table.columns[:n]):
        made.add_column(_cell(head), justify="right" if index else "left", overflow="fold", no_wrap=index > 0 and n > 2)
    for row in table.rows:
        made.add_row(*(_cell(cell) for cell in row[:n]))
    return made


def _cell(cell: Cell) -> Text:
    text = _text(cell.text, "bold" if cell.best else "")
    if cell.note:
        text.append(_text(f"\n{cell.note}", "dim"))
    return text


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text, keep="\n"), style=style)
