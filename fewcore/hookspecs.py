"""The hooks through which plugins offer components: one for each kind.

Every hook is called once, after all plugins are found and before anything runs; each plugin's implementation is called
on its own, so that one that fails harms only its own plugin. Hooks take no argument and return a list of `Component`
records, which name classes without importing them; an empty list is allowed. The order does not matter. Two plugins may
offer the same name: then the bare name is refused and `distribution:name` works.

Each docstring holds a complete plugin: `plugin.py`, named by the entry point, and `method.py`. The tests run them all.
"""

from __future__ import annotations

import pluggy

from fewcore.components import Component

hookspec = pluggy.HookspecMarker("fewcore")
hookimpl = pluggy.HookimplMarker("fewcore")
"""Marks a function of a plugin as the implementation of the hook of the same name."""


@hookspec
def fewcore_datasets() -> list[Component]:
    """Offer data sets: components with `load(run) -> ImageSet`.

    `load` computes nothing across images: what has statistics is a fitted stage. fewcore shuffles the rows, cuts the
    splits and hides the targets. A data set that reads files has `sources()`, which lists them, so that changed files
    are noticed; where they are very many it lists their folder. Images that fill gigabytes go into `run.zeros(...)`.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_datasets():
        return [Component("noise", "method:Noise", "images of noise, in two classes of different brightness")]
    ```
    ```python
    # method.py
    from dataclasses import dataclass

    import numpy as np
    from fewcore import ImageSet, ImageSpec, Run, Target, option


    @dataclass(frozen=True)
    class Noise:
        \"\"\"Uniform noise in two classes, dark and bright, each in every split.\"\"\"

        n_images: int = option(60, "number of images", low=6)

        def load(self, run: Run) -> ImageSet:
            classes = np.arange(self.n_images) % 2
            pixels = run.rng.random((self.n_images, 1, 8, 8)) * (0.5 + 0.5 * classes[:, None, None, None])
            ids = np.arange(self.n_images)
            target = Target("class", classes, ("dark", "bright"))
            third = ids // 2 % 3
            splits = {name: ids[third == part] for part, name in enumerate(("train", "validation", "test"))}
            spec = ImageSpec((8, 8), 1, (0, 1))
            return ImageSet(pixels.astype(np.float32), ids, ids, spec, {"class": target}, splits, "class")
    ```
    """
    return []


@hookspec
def fewcore_embedders() -> list[Component]:
    """Offer embedders: components with `fit(...) -> Encoder`.

    `fit` asks for `images` (targets hidden), or for `embeddings` where it changes the vectors of another embedder, or
    for `run` alone where nothing is learnt. An embedder that reads files, such as weights, has `sources()`, which lists
    them, so that changed files are noticed; so has a backbone.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_embedders():
        return [Component("brightness", "method:Brightness", "mean and spread of the pixels")]
    ```
    ```python
    # method.py
    from __future__ import annotations

    from dataclasses import dataclass

    import numpy as np
    from fewcore import Array, ImageSet, Run


    class BrightnessEncoder:
        dim = 2

        def embed(self, images: ImageSet, run: Run) -> Array:
            pixels = images.images.reshape(len(images), -1).astype(np.float32)
            return np.stack([pixels.mean(1), pixels.std(1)], 1)

        def to_arrays(self):
            return {}, {}

        @classmethod
        def from_arrays(cls, arrays, meta, inputs) -> BrightnessEncoder:
            return cls()


    @dataclass(frozen=True)
    class Brightness:
        \"\"\"Two numbers an image: mean and standard deviation of its pixels.\"\"\"

        def fit(self, run: Run) -> BrightnessEncoder:
            return BrightnessEncoder()
    ```
    """
    return []


@hookspec
def fewcore_partitioners() -> list[Component]:
    """Offer partitioners: components with `partition(...) -> Partitions`.

    `partition` asks for `embeddings`, for `partitions` of other partitioners, or, where the announcement says
    `needs_labels`, for `images`.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_partitioners():
        return [Component("median", "method:Median", "cut at the median of each dimension")]
    ```
    ```python
    # method.py
    from dataclasses import dataclass

    import numpy as np
    from fewcore import Embeddings, Partitions, Run


    @dataclass(frozen=True)
    class Median:
        \"\"\"One partition for each dimension: the vectors below its median and those above.\"\"\"

        def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
            above = embeddings.vectors > np.median(embeddings.vectors, axis=0)
            return Partitions(above.T.astype(np.int8), embeddings.ids)
    ```
    """
    return []


@hookspec
def fewcore_task_samplers() -> list[Component]:
    """Offer task samplers: components with `tasks(...) -> TaskStream`.

    `tasks` asks for `partitions`, or for `images` where the announcement says `needs_labels`. The stream is frozen and
    made again from its recipe; `start()` gives each consumer a cursor of its own.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_task_samplers():
        return [Component("pairs", "method:Pairs", "two parts, one support and one query image of each")]
    ```
    ```python
    # method.py
    from dataclasses import dataclass

    import numpy as np
    from fewcore import Partitions, Run, TaskBatch, option


    class PairsCursor:
        def __init__(self, stream):
            self.stream, self.place = stream, 0

        def draw(self, t):
            self.place += t
            return self.stream.at(range(self.place - t, self.place))

        def observe(self, batch, scores): ...

        def state_dict(self):
            return {"place": self.place}

        def load_state_dict(self, state):
            self.place = state["place"]


    class PairsStream:
        n_way, n_shot = (2,), (1,)

        def __init__(self, partitions, n_tasks, seed):
            self.partitions, self.n_tasks, self.seed = partitions, n_tasks, seed

        def at(self, tasks):
            rows = []
            for task in tasks:
                rng = np.random.default_rng((self.seed, task))
                parts = self.partitions.parts[rng.choice(len(self.partitions), p=self.partitions.weights)]
                chosen = rng.permutation(np.unique(parts[parts >= 0]))[:2]
                rows.append([rng.permutation(np.flatnonzero(parts == part))[:2] for part in chosen])
            rows = np.array(rows)
            labels = np.tile([0, 1], (len(rows), 1))
            return TaskBatch(rows[..., 0], labels, rows[..., 1], labels, np.array(tasks), 2, 1)

        def start(self):
            return PairsCursor(self)

        def batches(self):
            yield self.at(range(self.n_tasks))


    @dataclass(frozen=True)
    class Pairs:
        \"\"\"2-way 1-shot tasks with one query a class.\"\"\"

        n_tasks: int = option(100, "tasks on validation and test", low=1)

        def tasks(self, partitions: Partitions, run: Run) -> PairsStream:
            return PairsStream(partitions, self.n_tasks, int(run.rng.integers(2**32)))
    ```
    """
    return []


@hookspec
def fewcore_meta_learners() -> list[Component]:
    """Offer meta-learners, few-shot baselines among them: components with `meta_train(...) -> FewShotModel`.

    `meta_train` asks for any of `tasks`, `images`, `validation`, `embeddings`, `partitions`, `backbone`, `start`,
    `validation_tasks`. An input that only draws a curve is named in the class attribute `monitors`.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_meta_learners():
        return [Component("centroid", "method:Centroid", "nearest mean of the support vectors")]
    ```
    ```python
    # method.py
    from __future__ import annotations

    from dataclasses import dataclass

    import numpy as np
    from fewcore import Embeddings, Predictions, Run


    class CentroidModel:
        norm = "none"

        def __init__(self, encoder):
            self.encoder = encoder

        def classify(self, batch, images, run):
            vectors = self.encoder.embed(images, run)
            one_hot = np.eye(batch.n_way)[batch.support_labels] / batch.n_shot
            means = np.einsum("tsk,tse->tke", one_hot, vectors[batch.support])
            distances = ((vectors[batch.query][:, :, None] - means[:, None]) ** 2).sum(-1)
            return -distances.astype(np.float32)

        def adapt(self, support, run) -> CentroidPredictor:
            vectors = self.encoder.embed(support, run)
            means = [vectors[support.labels == k].mean(0) for k in range(len(support.class_names))]
            return CentroidPredictor(self.encoder, np.stack(means))

        def to_arrays(self):
            return {}, {}

        @classmethod
        def from_arrays(cls, arrays, meta, inputs) -> CentroidModel:
            return cls(inputs["embeddings"].encoder)


    class CentroidPredictor:
        def __init__(self, encoder, means):
            self.encoder, self.means = encoder, means

        def predict(self, images, run):
            vectors = self.encoder.embed(images, run)
            distances = ((vectors[:, None] - self.means) ** 2).sum(-1)
            return Predictions(images.ids, scores=-distances.astype(np.float32))

        def to_arrays(self):
            return {"means": self.means}, {}

        @classmethod
        def from_arrays(cls, arrays, meta, inputs) -> CentroidPredictor:
            return cls(inputs["embeddings"].encoder, arrays["means"])


    @dataclass(frozen=True)
    class Centroid:
        \"\"\"Each query goes to the class whose mean support vector is nearest.\"\"\"

        def meta_train(self, embeddings: Embeddings, run: Run) -> CentroidModel:
            return CentroidModel(embeddings.encoder)
    ```
    """
    return []


@hookspec
def fewcore_learners() -> list[Component]:
    """Offer learners: components with `learn(...) -> Predictor`, trained on the labels that are known.

    The announcement says `needs_labels=True` where `learn` reads targets, and in `predicts` what the predictor makes.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_learners():
        scores = ("scores",)
        return [Component("prior", "method:Prior", "the commonest class", needs_labels=True, predicts=scores)]
    ```
    ```python
    # method.py
    from __future__ import annotations

    from dataclasses import dataclass

    import numpy as np
    from fewcore import ImageSet, Predictions, Run


    class PriorPredictor:
        def __init__(self, shares):
            self.shares = shares

        def predict(self, images: ImageSet, run: Run) -> Predictions:
            return Predictions(images.ids, scores=np.tile(self.shares, (len(images), 1)))

        def to_arrays(self):
            return {"shares": self.shares}, {}

        @classmethod
        def from_arrays(cls, arrays, meta, inputs) -> PriorPredictor:
            return cls(arrays["shares"])


    @dataclass(frozen=True)
    class Prior:
        \"\"\"Predict every image's class by the shares of the classes among the known labels.\"\"\"

        def learn(self, images: ImageSet, run: Run) -> PriorPredictor:
            known = images.labels[images.labels >= 0]
            counts = np.bincount(known, minlength=len(images.class_names))
            return PriorPredictor(counts / max(1, counts.sum()))
    ```
    """
    return []


@hookspec
def fewcore_evaluators() -> list[Component]:
    """Offer evaluators: components with `evaluate(outcomes, run) -> MetricReport`.

    Called once, with the outcomes of all models and all cells, so that models can be paired and tests corrected. It
    uses the outcomes that have what it needs and names the others in `left_out`.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_evaluators():
        return [Component("count", "method:Count", "how many images were predicted")]
    ```
    ```python
    # method.py
    from dataclasses import dataclass

    from fewcore import MetricReport, MetricRow, Outcome, Run


    @dataclass(frozen=True)
    class Count:
        \"\"\"The number of predictions of each model.\"\"\"

        def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
            rows = []
            for outcome in outcomes:
                n = len(outcome.ids)
                rows.append(MetricRow("count", float(n), (n, n), n, outcome.stage, outcome.method))
            return MetricReport(tuple(rows))
    ```
    """
    return []


@hookspec
def fewcore_backbones() -> list[Component]:
    """Offer backbones: components with `build(shape, n_outputs, generator) -> torch.nn.Module`.

    `n_outputs=0` asks for features. The classifier's parameters are named `head.*`.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_backbones():
        return [Component("line", "method:Line", "one linear layer")]
    ```
    ```python
    # method.py
    import math
    from collections import OrderedDict
    from dataclasses import dataclass

    import torch
    from fewcore import option
    from torch import nn


    @dataclass(frozen=True)
    class Line:
        \"\"\"Flatten, one linear layer to `width` features, and a linear head.\"\"\"

        width: int = option(16, "number of features", low=1)

        def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
            layers = OrderedDict(flatten=nn.Flatten())
            with torch.random.fork_rng(devices=[]):  # new layers draw from global random state
                layers["features"] = nn.Linear(math.prod(shape), self.width)
                if n_outputs:
                    layers["head"] = nn.Linear(self.width, n_outputs)
            network = nn.Sequential(layers)
            for parameter in network.parameters():
                nn.init.normal_(parameter, std=0.1, generator=generator)
            return network
    ```
    """
    return []


@hookspec
def fewcore_trackers() -> list[Component]:
    """Offer trackers: components with `open(name, folder, facts) -> Tracking`, chosen by `fewcore run --track`.

    A tracker shows a run elsewhere while it runs. It gets the numbers of `log.jsonl` as `LogEntry`s, from a thread of
    its own: it may be slow, and what it raises switches it off and harms nothing. It is no stage: no number and no key
    depends on it. `open`, `record` and `close` are called from that one thread.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_trackers():
        return [Component("csv", "method:CSV", "a table of all numbers, for a spreadsheet")]
    ```
    ```python
    # method.py
    from __future__ import annotations

    import csv
    from collections.abc import Mapping
    from dataclasses import dataclass
    from pathlib import Path
    from typing import Any

    from fewcore import LogEntry, option


    class CSVTracking:
        def __init__(self, path, separator):
            self.file = path.open("w", encoding="utf-8", newline="")
            self.table = csv.writer(self.file, delimiter=separator)
            self.table.writerow(["kind", "stage", "step", "name", "value"])

        def record(self, entry: LogEntry) -> None:
            for name, value in entry.values.items():
                self.table.writerow([entry.kind, entry.stage, entry.step, name, value])

        def close(self, status: str, files: tuple[Path, ...]) -> None:
            self.file.close()


    @dataclass(frozen=True)
    class CSV:
        \"\"\"A line for each number: what it is of, the step, the name and the value.\"\"\"

        separator: str = option(",", "what stands between two cells, one character")

        def __post_init__(self) -> None:
            if len(self.separator) != 1:
                raise ValueError(f"found the separator {self.separator!r}; expected one character")

        def open(self, name: str, folder: Path, facts: Mapping[str, Any]) -> CSVTracking:
            return CSVTracking(folder / "numbers.csv", self.separator)
    ```
    """
    return []


@hookspec
def fewcore_executors() -> list[Component]:
    """Offer executors: components with `start(folder) -> Job`, chosen by `fewcore run --jobs N --executor`.

    An executor starts a worker somewhere: the command `python -m fewcore.workers.worker FOLDER`, on a machine that sees the
    folder, the store and the same environment. A worker and the run that started it talk through files in the folder.
    `n_threads` is the number of CPU threads of a worker unless --threads says. It is no stage: no key depends on it.

    ```python
    # plugin.py
    from fewcore import Component, hookimpl

    @hookimpl
    def fewcore_executors():
        return [Component("nice", "method:Nice", "workers that give way to all other work of this machine")]
    ```
    ```python
    # method.py
    from __future__ import annotations

    import subprocess
    import sys
    from dataclasses import dataclass
    from pathlib import Path

    from fewcore import option


    class NiceJob:
        def __init__(self, process):
            self.process = process

        def ended(self) -> str:
            code = self.process.poll()
            return "" if code is None else f"ended with code {code}"

        def end(self) -> None:
            self.process.kill()
            self.process.wait()


    @dataclass(frozen=True)
    class Nice:
        \"\"\"Processes of this machine with a low priority.\"\"\"

        level: int = option(10, "how much they give way", low=0, high=19)
        n_threads = 1

        def start(self, folder: Path) -> NiceJob:
            command = ["nice", "-n", str(self.level), sys.executable, "-P", "-m", "fewcore.workers.worker", str(folder)]
            return NiceJob(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    ```
    """
    return []
