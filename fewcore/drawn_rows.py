"""Which images a run trained, validated and tested on, and whose labels were known, in `rows.json`.

Written where the pipeline draws them, by `labels` or `splits`: the data set's own splits need no note. Images stand as their ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewcore.cells import in_common
from fewcore.disk import write_text
from fewcore.nodes import Node, Table
from fewcore.session import Session

FILE = "rows.json"
DRAWN_BY = ("labels", "splits")


def write_rows(session: Session, cells: Sequence[Mapping[str, Node]], folder: Path) -> None:
    """Write the ids of each split and of the labelled training images, once for all cells that share them."""
    found: dict[int, tuple[Table, str, dict[str, Any]]] = {}
    for nodes in cells:
        for node in nodes.values():
            if node.stage.kind != "dataset" or not any(node.cell.spec.get(name) for name in DRAWN_BY):
                continue
            table = session.table(node)
            _, _, before = found.get(id(table), (table, "", node.cell.axes))
            found[id(table)] = (table, node.stage.name, in_common(before, node.cell.axes))
    path = folder / FILE
    if not found:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps({"data": stage, **shared, **_ids(table)}) for table, stage, shared in found.values()]
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def _ids(table: Table) -> dict[str, list[int]]:
    ids = {split: table.images.ids[rows] for split, rows in table.rows.items()}
    if table.images.target:
        ids["labelled"] = ids["train"][table.known]
    return {name: sorted(map(int, own)) for name, own in ids.items()}
