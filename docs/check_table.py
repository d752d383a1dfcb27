"""Print the table of the kit's checks, in Markdown: `python docs/check_table.py`."""

from __future__ import annotations

from fewcore.kinds import KINDS, STAGE_KINDS
from fewcore.testing import checks_for


def table() -> str:
    """Return the table: each check, the kinds that it is for, and what it asks."""
    rows = ["| check | kinds | what it asks |", "|---|---|---|"]
    # An embedder has nearly all of the checks that are not of one kind, in their order.
    for check in dict.fromkeys(check for kind in ("embedder", *KINDS) for check in checks_for(kind)):
        kinds = tuple(kind for kind in KINDS if check in checks_for(kind))
        named = {tuple(KINDS): "all", STAGE_KINDS: "all stages"}.get(kinds)
        labels = named or ", ".join(KINDS[kind].label for kind in kinds)
        asks = " ".join((check.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
        rows.append(f"| `{check.__name__}` | {labels} | {asks} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
