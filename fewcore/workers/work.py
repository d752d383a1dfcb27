"""What the cells of a pipeline consist of: results to be made, each once, and what each of them needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fewcore.blame import blame
from fewcore.errors import FewcoreError, Interrupted
from fewcore.nodes import Node
from fewcore.outcomes import are_stored, outcomes_key, outcomes_of, streams_of
from fewcore.session import NOT_STORED, Session
from fewcore.wiring import CLASSES


@dataclass(frozen=True, eq=False)
class Work:
    """One piece of work: the result of a stage, an encoder's vectors of a data set, or a model's predictions.

    `key` names it, `needs` are the keys of the work before it. `data` is the stage whose images are embedded, `split`
    that on which a model predicts.
    """

    key: str
    node: Node
    needs: frozenset[str]
    data: str = ""
    split: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what a worker has to know beside the number of the cell."""
        return {"stage": self.node.stage.name, "key": self.node.key, "data": self.data, "split": self.split}


def do(session: Session, node: Node, data: Node | None, split: str) -> None:
    """Do a piece of work: see that its result is in the store."""
    if split:
        for _ in outcomes_of(session, node, split):
            pass
    elif data is not None:
        session.vectors(node, data)
    else:
        session.ensure(node)


def results(session: Session, nodes: Iterable[Node]) -> Iterator[Work]:
    """Yield the work of stages, and of the vectors that they ask for; what is stored is left out."""
    for node in nodes:
        for encoder, data in session.vectors_of(node):
            key = session.vectors_key(encoder, data)
            if not session.store.has(key):
                yield Work(key, encoder, frozenset({encoder.key, data.key}), data=data.stage.name)
        if node.stage.kind not in NOT_STORED and not session.store.has(node.key):
            yield Work(node.key, node, frozenset(_needs(session, node)))


def predictions(session: Session, models: Iterable[Node], split: str) -> Iterator[Work]:
    """Yield the work of predicting by models on the rows or tasks of a split; what is stored is left out.

    What cannot even be looked at is left out too: the runner comes upon it again, and notes it.
    """
    for node in models:
        streams = [] if node.stage.kind == "learner" else streams_of(node, split)
        needs = {node.key}.union(*(_needs(session, other) for other in (node, *streams)))
        try:
            with blame(node.title, node.stage.offer):
                there = all(session.store.has(key) for key in needs) and are_stored(session, node, split)
                if not there:
                    yield Work(outcomes_key(session, node, split), node, frozenset(needs), split=split)
        except Interrupted:
            raise
        except FewcoreError:
            continue


def _needs(session: Session, node: Node) -> Iterator[str]:
    """Yield the keys of what must be there before a node can be made: through stages that are never stored, too."""
    for source in (name for names in node.stage.inputs.values() for name in names if name != CLASSES):
        other = node.others[source]
        if other.stage.kind in NOT_STORED:
            yield from _needs(session, other)
        else:
            yield other.key
    for encoder, data in session.vectors_of(node):
        yield session.vectors_key(encoder, data)
