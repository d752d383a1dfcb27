"""One running of a pipeline: keys of stages, their values, and the arguments of their verbs.

A stage's key is a hash of all that decides its result and of nothing else: not its name, its place, the device or the
time. Values are made once for each key, kept in the store, and always used as the store gives them back, so that a run
that was killed and one that was not go the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from fewcore.cells import Cell
from fewcore.components import Offer
from fewcore.contracts import Array, Arrays, Embeddings, ImageSet, Meta, Partitions, Seen
from fewcore.errors import DataError, FewcoreError, Interrupted, PluginError, RanksApart
from fewcore.kinds import CONTRACT_VERSION, KINDS
from fewcore.making import Make, Maker
from fewcore.nodes import CachedEncoder, LazyInputs, Node, Table, result_class
from fewcore.plugins import source_digest
from fewcore.ranks import Ranks
from fewcore.run import ProgressSink, Run
from fewcore.seeds import child_seed
from fewcore.store import Entry, Store, digest
from fewcore.views import Show, known_rows, shuffled, split_rows, view, with_target
from fewcore.wiring import CLASSES, Wired

NOT_STORED = ("task_sampler", "backbone")


class Session:
    """Computes, stores and gives back the values of stages.

    `failed` holds the errors of what failed, by key: it is not tried again, and whoever asks for it gets the same error.
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        *,
        progress: ProgressSink | None = None,
        stop: Callable[[], bool] = lambda: False,
        checkpoint_every: float = 30.0,
        spy: Callable[[str, str, str, ImageSet], None] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.store = store
        self.device = device
        self.ranks = ranks or Ranks()
        self.maker = Maker(store, device, self.ranks, progress=progress, stop=stop, checkpoint_every=checkpoint_every)
        self.failed: dict[str, FewcoreError] = {}
        self._spy = spy
        self._values: dict[str, Any] = {}
        self._tables: dict[str, Table] = {}
        self._sources: dict[Offer, str | None] = {}
        self._n_planned = 0

    @property
    def computed(self) -> list[tuple[str, str]]:
        """The name and key of each result that was computed, not found in the store."""
        return self.maker.computed

    @property
    def tracebacks(self) -> dict[str, str]:
        """Where components of plugins went wrong, by title."""
        return self.maker.tracebacks

    # ---- keys

    def plan(self, cell: Cell, stages: tuple[Wired, ...]) -> dict[str, Node]:
        """Return the nodes of a cell by stage name, evaluators left out. Reads the data sets, and nothing else."""
        nodes: dict[str, Node] = {}
        for stage in stages:
            if stage.kind != "evaluator":
                nodes[stage.name] = self._agreed(stage, cell, nodes)
        for stage in stages:
            if "scores" in getattr(stage.component, "reads", ()):
                self._check_classes(cell, [nodes[name] for name in stage.inputs["outcomes"]])
        return nodes

    def _check_classes(self, cell: Cell, models: Iterable[Node]) -> None:
        """Refuse data of which learners, or an evaluator that reads their scores, would miss a class after long training."""
        folds = (cell.spec.get("splits") or {}).get("folds")
        for node in models:
            if node.stage.kind == "learner" and node.stage.data:
                data = node.others[node.stage.data]
                self.table(data).check_split("test", node.stage.name)
                splits = ["train", "validation"] if node.stage.offer.component.needs_labels else []
                # Folds are judged together.
                splits += [] if folds else ["test"]
                all_known = "classes" in (cell.spec.get("labels") or {})
                self.table(data).check_classes(f"stages.{data.stage.name}", splits, all_known=all_known)

    def _agreed(self, stage: Wired, cell: Cell, nodes: Mapping[str, Node]) -> Node:
        """Return a stage's node, which all ranks plan alike: else one would wait for what no other makes."""
        self._n_planned += 1
        place = f"planned {self._n_planned}"
        try:
            node = self._node(stage, cell, nodes)
        except (Interrupted, RanksApart):
            raise
        except FewcoreError:
            self.ranks.agree(place, "failed")
            raise
        self.ranks.agree(place, node.key)
        return node

    def _node(self, stage: Wired, cell: Cell, nodes: Mapping[str, Node]) -> Node:
        inputs: dict[str, Any] = {}
        seen = Seen()
        for name in self.arguments_of(stage, cell, nodes):
            key, saw = self._input(stage, cell, nodes, name)
            inputs[name] = key
            if name in getattr(stage.component, "monitors", ()):
                saw = replace(saw, labels={}, monitored=saw.labels, images={})
            seen = seen | saw
        if stage.kind == "embedder" and stage.split != "train":
            seen = seen | Seen(transductive=(stage.name,))
        seed = self._seed(stage, cell)
        recipe = {
            "contract": CONTRACT_VERSION,
            "kind": stage.kind,
            "name": stage.offer.name,
            "distribution": stage.offer.distribution,
            "version": stage.offer.version,
            "source": self._source(stage.offer),
            "options": _plain(asdict(stage.component)),
            "seed": seed,
            "split": stage.split,
            "inputs": inputs,
        }
        files = self._files(stage)
        if files or stage.kind == "dataset":
            recipe["files"] = files
        return Node(stage, cell, digest(recipe), recipe, seed, seen, nodes)

    def _source(self, offer: Offer) -> str | None:
        if offer not in self._sources:
            self._sources[offer] = source_digest(offer)
        return self._sources[offer]

    def _files(self, stage: Wired) -> list[str]:
        """Return the checksums of the files that a component reads, made once for each path, size and time."""
        if not hasattr(stage.component, "sources"):
            return []
        try:
            return [self.store.fingerprint(path) for path in stage.component.sources()]
        except OSError as error:
            raise DataError(f"stages.{stage.name}: {error}; expected a file that can be read") from error

    def _seed(self, stage: Wired, cell: Cell) -> int | None:
        if getattr(stage.component, "deterministic", False) or stage.kind == "backbone":
            return None
        if stage.seed is not None:
            return stage.seed
        if _judges(stage):
            return int((cell.spec.get("splits") or {}).get("seed", 0))
        return int(cell.spec.get("seed", 0))

    def arguments_of(self, stage: Wired, cell: Cell, nodes: Mapping[str, Node]) -> tuple[str, ...]:
        """Return the inputs that the verb gets, in its order: those wired, and validation rows where there are some."""
        names = []
        for parameter in stage.parameters:
            if parameter.name == "validation":
                has = bool(stage.data) and "validation" in self.table(nodes[stage.data]).rows
                if not has and not parameter.nullable:
                    raise DataError(
                        f"stages.{stage.name}: its component needs validation rows, and the splits have none; expected"
                        " splits with validation (type splits: {test: 0.25, validation: 0.1})"
                    )
                names += ["validation"] if has else []
            elif parameter.name in stage.inputs:
                names.append(parameter.name)
        return tuple(names)

    def _input(self, stage: Wired, cell: Cell, nodes: Mapping[str, Node], name: str) -> tuple[Any, Seen]:
        """Return the key of an input and what was seen on its way."""
        if name in ("images", "validation"):
            images = self._visible(stage, nodes, name)
            split = "validation" if name == "validation" else stage.split
            targets = {n: digest([t.kind, list(t.names)], t.values) for n, t in images.targets.items()}
            vectors = nodes[stage.vectors].key if stage.vectors else ""
            key = digest(nodes[stage.data].key, vectors, images.ids, targets, images.target if targets else "")
            known = int((images.labels >= 0).sum()) if images.target in images.targets else 0
            known = known or max((int(t.known.sum()) for t in images.targets.values()), default=0)
            saw = Seen({split: len(images)}, {split: known} if targets else {})
            return key, saw | (nodes[stage.vectors].seen if stage.vectors else Seen())
        sources = stage.inputs[name]
        if name in ("partitions", "embeddings"):
            self.table(nodes[stage.data]).check_split(stage.split, stage.name)
        if sources == (CLASSES,):
            images = self.table(nodes[stage.data]).view(stage.split, "all")
            return digest("classes", nodes[stage.data].key, images.ids, images.labels), Seen(
                labels={stage.split: len(images)}
            )
        seen = Seen()
        for source in sources:
            seen = seen | nodes[source].seen
        keys = [nodes[source].key for source in sources]
        if name == "embeddings":
            data = nodes[stage.data]
            embedded = self._embedded(nodes[sources[0]], data)
            return digest(keys, embedded.key, data.key, self.table(data).view(stage.split, "nothing").ids), seen
        return keys, seen

    # ---- data

    def table(self, node: Node) -> Table:
        """Return the data set of a cell: shuffled once, its target chosen, its splits cut, its known labels drawn."""
        spec = {name: node.cell.spec.get(name) for name in ("target", "splits", "labels")}
        name = digest(node.key, spec)
        if name not in self._tables:
            images = with_target(self.value(node), spec["target"])
            rows = split_rows(images, spec["splits"])
            if not len(rows.get("train", ())):
                raise DataError(
                    f"stages.{node.stage.name}: found no training rows; expected a split 'train', or splits in the file"
                    " (type splits: {test: 0.25, validation: 0.1})"
                )
            seed = int((spec["splits"] or {}).get("seed", 0))
            known = known_rows(view(images, rows["train"], "all"), spec["labels"], seed)
            self._tables[name] = Table(node.key, images, rows, known)
        return self._tables[name]

    def rows(self, stage: Wired, nodes: Mapping[str, Node], name: str) -> ImageSet:
        """Return the rows that a verb gets as `images` or `validation`, with the targets that it may see."""
        images = self._visible(stage, nodes, name)
        if stage.vectors:
            images = self.as_vectors(images, nodes[stage.vectors], nodes[stage.data])
        if self._spy is not None:
            self._spy(stage.name, name, "validation" if name == "validation" else stage.split, images)
        return images

    def _visible(self, stage: Wired, nodes: Mapping[str, Node], name: str) -> ImageSet:
        table = self.table(nodes[stage.data])
        split = "validation" if name == "validation" else stage.split
        table.check_split(split, stage.name)
        labelled = stage.offer.component.needs_labels or _judges(stage)
        show: Show = "nothing" if not labelled else "known" if split == "train" else "all"
        return table.view(split, show)

    def as_vectors(self, images: ImageSet, encoder: Node, data: Node) -> ImageSet:
        """Return the images as vectors (n, e, 1, 1): meta-learning on embeddings."""
        vectors = np.asarray(self.vectors(encoder, data)[images.ids], dtype=np.float32)
        spec = replace(images.spec, size=(1, 1), channels=vectors.shape[1], spacing=None)
        return replace(
            images, images=vectors[:, :, None, None], spec=spec, source=f"{images.source}/{encoder.key}", geometry={}
        )

    def _embedded(self, encoder: Node, data: Node) -> Node:
        """Return the data set that an encoder embeds for the rows of `data`: its own, where that holds the same images.

        One set may be the slices of the volumes of another: then their rows are paired, and GIST sees slices.
        """
        own = encoder.others.get(encoder.stage.data)
        if own is None or own.key == data.key:
            return data
        return own if _same_images(self.table(own).images, self.table(data).images) else data

    def vectors_key(self, encoder: Node, data: Node) -> str:
        """Return the key of an encoder's vectors of a data set."""
        return digest("vectors", encoder.key, data.key)

    def vectors_of(self, node: Node) -> list[tuple[Node, Node]]:
        """Return whose vectors of which data set a stage works on: those in place of images, and its embeddings."""
        stage, nodes = node.stage, node.others
        found = [(nodes[stage.vectors], nodes[stage.data])] if stage.vectors else []
        sources = stage.inputs.get("embeddings", ())
        return found + [(nodes[source], self._embedded(nodes[source], nodes[stage.data])) for source in sources]

    def vectors(self, encoder: Node, data: Node) -> Array:
        """Return the vectors of all rows of a data set, embedded once for each encoder, memory-mapped."""
        key = self.vectors_key(encoder, data)

        def make(run: Run) -> tuple[Arrays, Meta]:
            images = self.table(data).images
            everything = view(images, np.arange(len(images)), "nothing")
            vectors = np.asarray(self.value(encoder).embed(everything, run), dtype=np.float32)
            if vectors.ndim not in (2, 3) or len(vectors) != len(images):
                raise PluginError(f"{encoder.title}: embed gave {vectors.shape}; expected ({len(images)}, e)")
            return {"vectors": vectors}, {}

        return self.stored(key, f"{encoder.stage.name}: embed", make, {"vectors": encoder.key}).arrays["vectors"]

    # ---- values

    def argument(self, node: Node, name: str) -> Any:
        """Return what the verb of a node gets for an input."""
        stage, nodes = node.stage, node.others
        if name in ("images", "validation"):
            return self.rows(stage, nodes, name)
        sources = stage.inputs[name]
        if sources == (CLASSES,):
            images = self.table(nodes[stage.data]).view(stage.split, "all")
            return Partitions(images.labels[None].astype(np.int64), images.ids, names=images.class_names)
        if name == "embeddings":
            encoder, data = nodes[sources[0]], nodes[stage.data]
            vectors = self.vectors(encoder, self._embedded(encoder, data))
            ids = self.table(data).view(stage.split, "nothing").ids
            cached: Any = CachedEncoder(self.value(encoder), vectors, self.table(data).images.source)
            return Embeddings(np.asarray(vectors[ids]), ids, cached)
        many = next(p.many for p in stage.parameters if p.name == name)
        values = tuple(self.value(nodes[source]) for source in sources)
        return values if many else values[0]

    def ensure(self, node: Node) -> None:
        """See that a node's result is in the store."""
        if node.stage.kind not in NOT_STORED and self.store.get(node.key) is None:
            self.value(node)

    def value(self, node: Node) -> Any:
        """Return the value of a node: from memory, from the store, or computed and stored."""
        if node.key in self._values:
            return self._values[node.key]
        if node.stage.kind == "backbone":
            value = node.stage.component
        elif node.stage.kind == "task_sampler":
            value = self._call(node, self.run_for(node))
        else:
            value = self._load(
                node, self.stored(node.key, node.title, lambda run: self._make(node, run), node.recipe, node)
            )
        self._values[node.key] = value
        return value

    def _load(self, node: Node, entry: Entry) -> Any:
        cls = result_class(node.stage)
        names = self.arguments_of(node.stage, node.cell, node.others)
        inputs = LazyInputs(names, lambda name: self.argument(node, name))
        return cls.from_arrays(entry.arrays, entry.meta, inputs)

    def run_for(self, node: Node) -> Run:
        """Return the `Run` of a node, its generators drawn from seed, kind, component and split."""
        return self.maker.run(_generator_seed(node), node.title, node.key)

    def run_for_evaluator(self, stage: Wired) -> Run:
        """Return the `Run` of an evaluator, which is the same in every run: masks of many models take a while."""
        seed = child_seed(0, "evaluator", stage.offer.name)
        return self.maker.run(seed, stage.name)

    def _call(self, node: Node, run: Run) -> Any:
        names = self.arguments_of(node.stage, node.cell, node.others)
        arguments = {name: self.argument(node, name) for name in names}
        if any(p.name == "validation" and not p.optional for p in node.stage.parameters):
            arguments.setdefault("validation", None)
        return getattr(node.stage.component, KINDS[node.stage.kind].verb)(**arguments, run=run)

    def _make(self, node: Node, run: Run) -> tuple[Arrays, dict[str, Any]]:
        value = self._call(node, run)
        if node.stage.kind == "dataset":
            value = shuffled(value, node.key, run.zeros)
            _check_images(value, node.stage.name)
        expected = result_class(node.stage)
        if not isinstance(value, expected):
            raise PluginError(
                f"{node.title}: {KINDS[node.stage.kind].verb} gave {type(value).__name__}; expected {expected.__name__}"
            )
        arrays, meta = value.to_arrays()
        return arrays, meta

    def stored(self, key: str, title: str, make: Make, recipe: Mapping[str, Any], node: Node | None = None) -> Entry:
        """Return a stored result; where there is none, make it and store it. What failed once fails at once."""
        if key in self.failed:
            raise self.failed[key]
        own: dict[str, Any] = {"seed": child_seed(0, key)}
        if node is not None:
            own = {"seed": _generator_seed(node), "name": node.stage.name, "offer": node.stage.offer}
            own["together"] = self.together(node)
        try:
            return self.maker.stored(key, title, make, recipe, **own)
        except Interrupted:
            raise
        except FewcoreError as error:
            self.failed[key] = error
            raise

    def together(self, node: Node) -> bool:
        """Return whether all ranks make this node at once: there are several, and its component shares tasks out."""
        return self.ranks.size > 1 and getattr(node.stage.component, "shares_tasks", False)


def _generator_seed(node: Node) -> int:
    stage = node.stage
    return child_seed(node.seed or 0, stage.kind, stage.offer.name, stage.split)


def _judges(stage: Wired) -> bool:
    """Return whether a stage draws what models are judged by: it may see labels, and all seeds share it."""
    return stage.split != "train" and stage.kind in ("task_sampler", "partitioner")


def _same_images(first: ImageSet, second: ImageSet) -> bool:
    """Return whether two sets are the same images, cut out in two ways: equal groups, and the same said of each."""

    def said(images: ImageSet) -> dict[str, str]:
        return {name: digest(t.values) for name, t in images.targets.items() if t.kind != "masks"}

    return np.array_equal(first.groups, second.groups) and bool(said(first)) and said(first) == said(second)


def _plain(value: Any) -> Any:
    """Return options as JSON."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _check_images(images: ImageSet, name: str) -> None:
    """Refuse NaN and infinity in the pixels."""
    if images.images.dtype.kind == "f":
        flat = images.images.reshape(len(images), -1)
        bad = [i for i in range(len(images)) if not np.isfinite(flat[i]).all()]
        if bad:
            raise DataError(
                f"stages.{name}: {len(bad)} images hold NaN or infinity, the first is number {bad[0]}; expected finite pixels"
            )
