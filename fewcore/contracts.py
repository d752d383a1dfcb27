"""The data that passes between stages: frozen and self-checking.

Shape letters are the same everywhere: n images, c/d/h/w, e embedding size, p partitions, t tasks, s support, q query,
k classes. A value that can be stored has `to_arrays()`, which returns named arrays and JSON, and the class method
`from_arrays(arrays, meta, inputs)`, which builds it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fewcore.errors import DataError

if TYPE_CHECKING:
    from fewcore.protocols import Encoder

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]
Meta = dict[str, Any]

TARGET_KINDS = {"class": 1, "masks": 4, "ratings": 3, "attributes": 2}
Scale = tuple[float, float] | tuple[tuple[float, float], ...]
IMAGE_DTYPES = ("uint8", "float16", "float32")


def _check(ok: bool, what: str, found: object, expected: str) -> None:
    if not ok:
        raise DataError(f"{what}: found {found}; expected {expected}")


def _scale(said: Any) -> Scale:
    """Return a scale as JSON says it: a pair, or a list of pairs."""
    if isinstance(said[0], list | tuple):
        return tuple((low, high) for low, high in said)
    return said[0], said[1]


@dataclass(frozen=True, eq=False)
class Target:
    """Something that a human said about each image; unknown where nobody said it.

    `kind` fixes the shape of `values`: `class` (n,) integers, -1 unknown; `masks` (n, k, h, w) or (n, k, d, h, w)
    floats in [0, 1], NaN unknown; `ratings` (n, readers, attributes), NaN unknown; `attributes` (n, a) of 0 and 1,
    -1 unknown. `names` are the classes, the structures, the rated or the binary attributes. `scale` is the lowest and
    highest rating: one pair for all rated attributes, or one for each of `names`.

    Raises:
        DataError: an unknown kind, values of another shape or dtype, a class without a name, or a scale that is neither.

    """

    kind: Literal["class", "masks", "ratings", "attributes"]
    values: Array
    names: tuple[str, ...] = ()
    scale: Scale | None = None

    def __post_init__(self) -> None:
        _check(self.kind in TARGET_KINDS, "target", self.kind, f"one of {', '.join(TARGET_KINDS)}")
        dims = TARGET_KINDS[self.kind]
        ok = self.values.ndim == dims or (self.kind == "masks" and self.values.ndim == 5)
        _check(ok, f"target of kind {self.kind}", f"shape {self.values.shape}", f"{dims} dimensions")
        if self.kind == "class" and len(self.values):
            _check(self.values.dtype.kind in "iu", "class target", self.values.dtype, "integers")
            top = int(self.values.max())
            _check(top < len(self.names), "class target", f"class {top}", f"fewer than {len(self.names)} (its names)")
        if self.scale is not None:
            pairs = np.asarray(self.scale, dtype=float)
            ok = pairs.shape in ((2,), (len(self.names), 2)) and bool((pairs[..., 0] < pairs[..., 1]).all())
            _check(
                ok, "scale of ratings", self.scale, f"(low, high), or {len(self.names)} such pairs, one for each name"
            )

    @property
    def scales(self) -> Array | None:
        """The lowest and highest rating of each of `names`, (a, 2), or None where no scale is known."""
        if self.scale is None:
            return None
        return np.broadcast_to(np.asarray(self.scale, dtype=float), (len(self.names), 2))

    @property
    def known(self) -> Array:
        """Whether anything is known of each image, (n,) bool."""
        flat = self.values.reshape(len(self.values), -1)
        if flat.dtype.kind == "f":
            return np.asarray((~np.isnan(flat)).any(1))
        return np.asarray((flat >= 0).any(1))


@dataclass(frozen=True)
class ImageSpec:
    """What every image of a set is like, and how a file becomes such an image.

    `size` is (h, w) or (d, h, w) in pixels; `value_range` the lowest and highest value; `spacing` the size of a pixel
    in millimetres where it is known; `preparation` says, in JSON, the steps from file to image (`{"grey": true}`).
    Through `grey`, `fit` (pad, crop, stretch), `bits`, `window`, `invert` and `max_pixels` new files can be taken too; other steps are the
    data set's own. `notes` is no step.
    """

    size: tuple[int, ...]
    channels: int
    value_range: tuple[float, float]
    spacing: tuple[float, ...] | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> Meta:
        """Return the spec as JSON."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "value_range": list(self.value_range),
            "spacing": list(self.spacing) if self.spacing else None,
            "preparation": dict(self.preparation),
        }

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> ImageSpec:
        """Build a spec from `to_json`'s result."""
        return cls(
            tuple(meta["size"]),
            meta["channels"],
            (meta["value_range"][0], meta["value_range"][1]),
            tuple(meta["spacing"]) if meta["spacing"] else None,
            meta["preparation"],
        )


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their ids, groups and targets.

    `images` is (n, c, h, w) or (n, c, d, h, w), uint8, float16 or float32, possibly memory-mapped; vectors stand as
    (n, e, 1, 1). `ids` (n,) are distinct integers that say nothing. `groups` (n,) are equal for images that must not be
    parted (one patient). `splits` maps train, validation and test to ids. `target` names the class target that `labels`
    means. `geometry` holds arrays with n rows about each file. `source` is set by fewcore: it names the data set from
    which rows were cut.

    Raises:
        DataError: shapes disagree, ids repeat, a dtype is not allowed, splits overlap or cut through a group.

    """

    images: Array
    ids: Array
    groups: Array
    spec: ImageSpec
    targets: Mapping[str, Target] = field(default_factory=dict)
    splits: Mapping[str, Array] = field(default_factory=dict)
    target: str = ""
    geometry: Mapping[str, Array] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        n = len(self.images)
        _check(self.images.ndim in (4, 5), "images", f"shape {self.images.shape}", "(n, c, h, w) or (n, c, d, h, w)")
        _check(str(self.images.dtype) in IMAGE_DTYPES, "images", self.images.dtype, "uint8, float16 or float32")
        for name, values in (("ids", self.ids), ("groups", self.groups)):
            _check(
                values.shape == (n,) and values.dtype.kind in "iu", name, f"{values.dtype} {values.shape}", f"({n},)"
            )
        _check(len(np.unique(self.ids)) == n, "ids", "a number twice", "distinct integers")
        for name, target in self.targets.items():
            _check(len(target.values) == n, f"target '{name}'", f"{len(target.values)} rows", f"{n}")
        if self.target and self.targets:
            found = self.targets.get(self.target)
            ok = found is not None and found.kind == "class"
            _check(ok, "target", f"'{self.target}'", f"a class target among {sorted(self.targets)}")
        self._check_splits()

    def _check_splits(self) -> None:
        if not self.splits:
            return
        group_of = dict(zip(self.ids.tolist(), self.groups.tolist(), strict=True))
        seen: dict[int, str] = {}
        for split, ids in self.splits.items():
            _check(all(i in group_of for i in ids.tolist()), f"split '{split}'", "an unknown id", "ids of this set")
            for group in {group_of[i] for i in ids.tolist()}:
                other = seen.setdefault(group, split)
                _check(other == split, f"split '{split}'", f"a group that is also in '{other}'", "whole groups")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: (c, h, w) or (c, d, h, w)."""
        return tuple(self.images.shape[1:])

    @property
    def labels(self) -> Array:
        """The class of each image, (n,), -1 where unknown.

        Raises:
            DataError: the targets are hidden, because the component does not say `needs_labels`, or there is none.

        """
        if self.target not in self.targets:
            raise DataError("labels: found no class target; expected needs_labels=True in the component's announcement")
        return self.targets[self.target].values

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that `labels` counts."""
        return self.targets[self.target].names if self.target in self.targets else ()

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the set as named arrays and JSON."""
        arrays: Arrays = {"images": self.images, "ids": self.ids, "groups": self.groups}
        arrays |= {f"split.{name}": np.asarray(ids) for name, ids in self.splits.items()}
        arrays |= {f"geometry.{name}": values for name, values in self.geometry.items()}
        arrays |= {f"target.{name}": target.values for name, target in self.targets.items()}
        targets = {n: {"kind": t.kind, "names": list(t.names), "scale": t.scale} for n, t in self.targets.items()}
        return arrays, {"spec": self.spec.to_json(), "target": self.target, "targets": targets, "source": self.source}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ImageSet:
        """Build a set from `to_arrays`' result."""
        targets = {
            name: Target(
                t["kind"], arrays[f"target.{name}"], tuple(t["names"]), _scale(t["scale"]) if t["scale"] else None
            )
            for name, t in meta["targets"].items()
        }

        def part(prefix: str) -> dict[str, Array]:
            return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}

        return cls(
            arrays["images"],
            arrays["ids"],
            arrays["groups"],
            ImageSpec.from_json(meta["spec"]),
            targets,
            part("split."),
            meta["target"],
            part("geometry."),
            meta["source"],
        )


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The vectors of a stage's rows and the encoder that made them.

    `vectors` is (n, e) float32, or (n, m, e) where the encoder makes features for each of m named targets.
    """

    vectors: Array
    ids: Array
    encoder: Encoder

    def __post_init__(self) -> None:
        ok = self.vectors.ndim in (2, 3) and len(self.vectors) == len(self.ids)
        _check(ok, "embeddings", f"{self.vectors.shape}", f"({len(self.ids)}, e) or ({len(self.ids)}, m, e)")

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, eq=False)
class Partitions:
    """Several ways of cutting the same rows into parts.

    `parts` is (p, n), signed integers, -1 for 'in no part'. `weights` (p,) are the probabilities with which a task takes
    each partition; uniform by default. `names` are the parts' names where they have some.

    Raises:
        DataError: shapes disagree, weights do not sum to one, or a partition has no part at all.

    """

    parts: Array
    ids: Array
    weights: Array = field(default_factory=lambda: np.empty(0))
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ok = self.parts.ndim == 2 and self.parts.shape[1] == len(self.ids) and self.parts.dtype.kind == "i"
        _check(ok, "partitions", f"{self.parts.dtype} {self.parts.shape}", f"signed integers (p, {len(self.ids)})")
        _check(len(self.parts) > 0, "partitions", "none", "at least one")
        if not len(self.weights):
            object.__setattr__(self, "weights", np.full(len(self.parts), 1 / len(self.parts)))
        ok = (
            len(self.weights) == len(self.parts)
            and bool(np.isclose(self.weights.sum(), 1))
            and (self.weights >= 0).all()
        )
        _check(bool(ok), "weights of partitions", self.weights.tolist()[:5], "probabilities, one for each partition")
        top = int(self.parts.max(initial=-1))
        _check(top >= 0, "partitions", "no image in any part", "at least one part")
        smallest = np.min_scalar_type(-top - 1)
        if self.parts.dtype != smallest:
            object.__setattr__(self, "parts", self.parts.astype(smallest))

    def __len__(self) -> int:
        return len(self.parts)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the partitions as named arrays and JSON."""
        return {"parts": self.parts, "ids": self.ids, "weights": self.weights}, {"names": list(self.names)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Partitions:
        """Build partitions from `to_arrays`' result."""
        return cls(arrays["parts"], arrays["ids"], np.asarray(arrays["weights"]), tuple(meta["names"]))


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """A batch of few-shot tasks as row numbers of the stage's view.

    `support` and `support_labels` are (t, s), `query` and `query_labels` (t, q); labels count from 0 to n_way - 1.
    Unequal queries are padded with -1, in rows and labels. Query labels are -1 throughout where they are hidden.
    `task` (t,) says which task of the sampler's list each is.
    """

    support: Array
    support_labels: Array
    query: Array
    query_labels: Array
    task: Array
    n_way: int
    n_shot: int

    def __post_init__(self) -> None:
        t = len(self.task)
        for name in ("support", "query"):
            rows, labels = getattr(self, name), getattr(self, f"{name}_labels")
            ok = rows.ndim == 2 and len(rows) == t and rows.shape == labels.shape
            _check(ok, f"{name} of a task batch", f"rows {rows.shape}, labels {labels.shape}", f"both ({t}, ...)")
        _check(bool((self.support >= 0).all()), "support of a task batch", "a negative row", "rows of the stage")

    def __len__(self) -> int:
        return len(self.task)

    @property
    def query_known(self) -> Array:
        """Which queries are images and not padding, (t, q) bool."""
        return np.asarray(self.query >= 0)

    def part(self, start: int, stop: int) -> TaskBatch:
        """Return tasks `start` to `stop` of the batch."""
        cut = slice(start, stop)
        rows = (self.support[cut], self.support_labels[cut], self.query[cut], self.query_labels[cut], self.task[cut])
        return TaskBatch(*rows, self.n_way, self.n_shot)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about images (by `ids`) or about the queries of tasks.

    `scores` is (n, k), or (t, q, k) for few-shot tasks; higher is likelier. `masks` is (n, k, h, w) in [0, 1]. `values`
    is (n, m) with `value_names`. At least one is there.
    """

    ids: Array
    scores: Array | None = None
    masks: Array | None = None
    values: Array | None = None
    value_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        made = {name: getattr(self, name) for name in ("scores", "masks", "values")}
        _check(any(v is not None for v in made.values()), "predictions", "nothing", "scores, masks or values")
        for name, values in made.items():
            if values is not None:
                _check(len(values) == len(self.ids), name, f"{len(values)} rows", f"{len(self.ids)}")
        if self.values is not None:
            _check(len(self.value_names) == self.values.shape[1], "values", self.value_names, "a name for each column")

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the predictions as named arrays and JSON."""
        made = {name: getattr(self, name) for name in ("ids", "scores", "masks", "values")}
        return {k: v for k, v in made.items() if v is not None}, {"value_names": list(self.value_names)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Predictions:
        """Build predictions from `to_arrays`' result."""
        made = {name: arrays.get(name) for name in ("scores", "masks", "values")}
        return cls(arrays["ids"], **made, value_names=tuple(meta["value_names"]))


def split_word(split: str) -> str:
    """Return a split as an adjective.

    >>> split_word("train"), split_word("test")
    ('training', 'test')
    """
    return "training" if split == "train" else split


@dataclass(frozen=True)
class Seen:
    """What was seen on the way to a value: for each split the number of images and of labels, and notes.

    `monitored` counts labels that were only used to draw a curve. `transductive` names the stages that were fitted on
    the rows on which they are judged.
    """

    images: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    monitored: Mapping[str, int] = field(default_factory=dict)
    transductive: tuple[str, ...] = ()

    def __or__(self, other: Seen) -> Seen:
        def top(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
            return {name: max(a.get(name, 0), b.get(name, 0)) for name in {**a, **b}}

        return Seen(
            top(self.images, other.images),
            top(self.labels, other.labels),
            top(self.monitored, other.monitored),
            tuple(sorted({*self.transductive, *other.transductive})),
        )

    def __str__(self) -> str:
        def count(numbers: Mapping[str, int]) -> str:
            return " + ".join(f"{numbers[s]} {split_word(s)}" for s in sorted(numbers) if numbers[s])

        text = f"labels: {count(self.labels) or 'none'}"
        if watched := count({s: n for s, n in self.monitored.items() if not self.labels.get(s)}):
            text += f" (monitored only: {watched})"
        return text + (f"; transductive: {', '.join(self.transductive)}" if self.transductive else "")
