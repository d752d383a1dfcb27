"""What a run would do, and why: compare the recipe of each stage with the one that ran last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewcore.nodes import Node
from fewcore.pipeline import Pipeline
from fewcore.session import NOT_STORED, Session
from fewcore.store import Store


@dataclass(frozen=True)
class Explanation:
    """What would become of one stage: `action` is reuse, compute or make (never stored)."""

    stage: str
    cell: str
    action: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Return the explanation as JSON."""
        return {"stage": self.stage, "cell": self.cell, "action": self.action, "reason": self.reason}


def explain(pipeline: Pipeline, session: Session) -> list[Explanation]:
    """Return what would become of every stage. Data sets are read, because keys depend on their rows; nothing else is."""
    found: dict[str, Explanation] = {}
    for cell, stages in pipeline.cells:
        for node in session.plan(cell, stages).values():
            if node.key not in found:
                found[node.key] = _explain(node, pipeline.name, session.store)
    return list(found.values())


def _explain(node: Node, pipeline: str, store: Store) -> Explanation:
    stage, cell = node.stage.name, node.cell.label
    if node.stage.kind in NOT_STORED:
        return Explanation(stage, cell, "make", "made anew each time; it is cheap and never stored")
    if store.has(node.key):
        return Explanation(stage, cell, "reuse", "its recipe is that of a stored result")
    last = store.last_recipe(pipeline, cell, stage)
    if store.checkpoints(node.key).is_dir():
        return Explanation(stage, cell, "compute", "it was interrupted and goes on from its checkpoint")
    if last is None:
        return Explanation(stage, cell, "compute", "it never ran")
    reasons = list(_differences(last, node))
    return Explanation(stage, cell, "compute", "; ".join(reasons) or "its stored result is gone or was damaged")


def _differences(last: Mapping[str, Any], node: Node) -> list[str]:
    now = node.recipe
    reasons = []
    who = f"{now['distribution']} {now['version']}"
    if (last["distribution"], last["name"]) != (now["distribution"], now["name"]):
        reasons.append(
            f"its component was {last['distribution']}:{last['name']} and is {now['distribution']}:{now['name']}"
        )
    elif last["version"] != now["version"]:
        reasons.append(f"{now['distribution']} was {last['version']} and is {now['version']}")
    elif last["source"] != now["source"]:
        reasons.append(f"the source of {who} changed (editable install)")
    for name in sorted({*last["options"], *now["options"]}):
        before, after = last["options"].get(name), now["options"].get(name)
        if before != after:
            reasons.append(f"{name} was {before} and is {after}")
    for name in ("seed", "split", "contract", "files"):
        if last.get(name) != now.get(name):
            text = "its files changed" if name == "files" else f"{name} was {last.get(name)} and is {now.get(name)}"
            reasons.append(text)
    for name in sorted({*last["inputs"], *now["inputs"]}):
        if last["inputs"].get(name) != now["inputs"].get(name):
            source = ", ".join(node.stage.inputs.get(name, ())) or "the rows"
            reasons.append(f"its {name} changed ({source})")
    return reasons
