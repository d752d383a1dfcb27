"""A trained model that is used on new files: in three lines of Python, or by `fewcore adapt` and `fewcore predict`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewcore.blame import blame
from fewcore.components import Offer
from fewcore.contracts import Array, ImageSet, ImageSpec, Predictions, Target
from fewcore.disk import check_writable
from fewcore.errors import DataError, NumericalError, PipelineError, PluginError, Problem
from fewcore.exporting.export import (
    Exported,
    Whole,
    entering,
    frozen,
    made_up_images,
    network_for_export,
    target_of,
    write_network,
)
from fewcore.models.file_predictions import FilePredictions
from fewcore.models.new_files import NewFile, labelled_files, listed, read_all
from fewcore.models.new_images import Fitting, Window
from fewcore.models.rebuilding import (
    Results,
    adapted,
    built,
    component_of,
    is_adapted_model,
    keep_model,
    other_versions,
    to_be_copied,
)
from fewcore.models.records import ModelRecord, chosen, read_models
from fewcore.run import ProgressSink, Run, device_named
from fewcore.seeds import child_seed, numpy_generator
from fewcore.store import Entry, digest

PathLike = str | Path


def load_model(
    folder: PathLike,
    stage: str = "",
    cell: Mapping[str, Any] | None = None,
    *,
    use: str = "",
    device: str = "auto",
    progress: ProgressSink | None = None,
) -> TrainedModel:
    """Return a model of a run's folder, or that of `fewcore adapt`, without the data that it learnt from.

    `stage` and `cell` say which, where a run has several: its stage, and axis values such as `{"seed": 0}`. `use` is
    `predict`, for a model that has its classes or masks, or `adapt`, for one that must learn classes from labelled images
    first; where it is empty those that can predict come first.

    Raises:
        DataError: the folder holds no models, or the results of the run are gone.
        PipelineError: there is no such model, or there are several.

    """
    where = Path(folder)
    records = read_models(where)
    named = [record for record in records if not stage or record.stage == stage]
    use = use or ("predict" if any(record.used_by == "predict" for record in named) else "adapt")
    return TrainedModel(where, chosen(records, where, use, stage, cell), device_named(device), progress)


class TrainedModel:
    """A model with all that new files need. `classes` are its classes' names; empty where it has none yet.

    `fewcore.load_model` makes it.
    """

    def __init__(
        self,
        folder: Path,
        record: ModelRecord,
        device: Any = "cpu",
        progress: ProgressSink | None = None,
        adapted: tuple[Any, Entry] | None = None,
    ) -> None:
        self.folder = folder
        self.record = record
        self._device = device
        self._progress = progress
        self._adapted = adapted

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it tells apart; none of a few-shot model that is not adapted."""
        return self.record.classes if self.record.used_by == "predict" else ()

    @property
    def other_versions(self) -> tuple[str, ...]:
        """A line for each component that is installed in another version than that which made the model."""
        return other_versions(self.record)

    def predict(
        self, files: PathLike | Iterable[PathLike], window: Window | None = None, skip: PathLike = ""
    ) -> FilePredictions:
        """Return what the model says of new files; all of them are checked before it starts.

        `files` are images and folders of images. `window` are the values of files of more than 8 bits that become black
        and white. Files in the folder `skip` are passed over.

        Raises:
            DataError: everything that is wrong with the files, at once; or the model is a few-shot model.
            NumericalError: a prediction is NaN or infinite.

        """
        self._check_use("predict")
        fitting = self._fitting(window)
        said = [files] if isinstance(files, str | Path) else list(files)
        found = listed(said, Path(skip) if skip else None, series=fitting.takes_series)
        run = self._run("predict", 0)
        images, read = self._images(found, fitting, run)
        results = Results(self.folder, self.record.store)
        model, offer = self._predictor(results)
        with blame(self.record.title, offer):
            made: Predictions = model.predict(self._as_seen(images, results, run), run)
        self._check(made, images)
        return FilePredictions.of(read, made, self.record, fitting)

    def adapt(
        self, folder: PathLike, n_shot: int | None = None, seed: int = 0, window: Window | None = None
    ) -> TrainedModel:
        """Return a model that tells apart the classes of a folder with a sub-folder of images for each.

        `n_shot` images of each class are drawn from `seed`; None takes all.

        Raises:
            PipelineError: `n_shot` is below 1.
            DataError: everything that is wrong with the files, at once; too few images or classes; or the model is none
                that can be adapted.

        """
        self._check_use("adapt")
        if n_shot is not None and n_shot < 1:
            raise PipelineError(Problem("n_shot", str(n_shot), "at least 1, or None for all images"))
        run = self._run("adapt", seed)
        fitting = self._fitting(window)
        names, found, labels = labelled_files(Path(folder), series=fitting.takes_series)
        rows = _drawn(labels, names, n_shot, seed, Path(folder))
        images, _ = self._images([found[row] for row in rows], fitting, run, one_each=True)
        results = Results(self.folder, self.record.store)
        model, offer = built(self.record.recipe, results)
        support = replace(images, targets={"class": Target("class", labels[rows], names)}, target="class")
        with blame(self.record.title, offer):
            made = model.adapt(self._as_seen(support, results, run), run)
            arrays, meta = made.to_arrays()
        _check_finite(arrays, self.record.title)
        key = digest("adapted", self.record.recipe.key, images.images, labels[rows], list(names), seed)
        counts = dict(zip(names, np.bincount(labels[rows], minlength=len(names)).tolist(), strict=True))
        record = replace(self.record, classes=names, structures={}, adapted=key, labelled=counts)
        facts = {"device": str(self._device), "seconds": run.seconds}
        entry = Entry(key, arrays, meta, {"adapted": self.record.recipe.key, "seed": seed}, facts)
        return TrainedModel(self.folder, record, self._device, self._progress, (made, entry))

    def export(self, file: PathLike, overwrite: bool = False) -> Exported:
        """Write the model as a network that needs no fewcore, and a description of how to feed it beside it.

        The end of the file's name says its format: `.onnx`, `.ts` (TorchScript) or `.pt2` (torch.export). The file is run and
        compared with the model; one that says something else is not kept.

        Raises:
            PipelineError: the name says no format, or the model must be adapted first.
            PluginError: a library is missing (`pip install 'fewcore[export]'`), or the format cannot hold the network.
            DataError: the file is there already, or the model is no network or looks at more than one image.
            NumericalError: the file says something else than the model.

        """
        self._check_use("predict")
        target = Path(file)
        how = target_of(target, overwrite)
        results, run = Results(self.folder, self.record.store), Run(0, torch.device("cpu"), name=self.record.stage)
        model, offer = self._predictor(results)
        with blame(self.record.title, offer):
            whole = self._whole(model, results)
            images = made_up_images(self.record)
            made: Predictions = model.predict(self._as_seen(images, results, run), run)
        self._check(made, images)
        return write_network(target, how, whole, self.record, images, made)

    def save(self, folder: PathLike, overwrite: bool = False) -> Path:
        """Write an adapted model into a folder of its own, with all that it needs; returns the folder.

        Raises:
            DataError: it was not adapted here, or the folder holds something else.
            ResourceError: the disk is full or cannot be written.

        """
        out = Path(folder)
        if self._adapted is None:
            raise DataError(Problem(str(out), "a model that was not adapted", "one that adapt() returned"))
        check_model_folder(out, overwrite)
        # Built as it will be later: what is read for that is kept beside it.
        needed = Results(self.folder, self.record.store)
        adapted(self.record.recipe, self._adapted[1], needed)
        if self.record.vectors is not None:
            built(self.record.vectors, needed)
        keep_model([*needed.used.values(), self._adapted[1]], to_be_copied(self.record), out)
        return out

    # ---- images

    def _fitting(self, window: Window | None) -> Fitting:
        prepare = None
        if self.record.data is not None:
            offer, data = component_of(self.record.data)
            prepare = getattr(data, "prepare", None)
            if not callable(prepare):
                found = f"{self.record.title}: {offer.full_name} {offer.version}, which has no way for new files"
                raise PluginError(f"{found}; expected one with prepare, as {self.record.data.version} had")
        return Fitting(self.record.spec, self.record.dtype, window, prepare)

    def _images(
        self, files: list[NewFile], fitting: Fitting, run: Run, *, one_each: bool = False
    ) -> tuple[ImageSet, list[NewFile]]:
        """Return the images of files as a set without targets, and the files with what was found out of them."""
        images, read = read_all(files, fitting, run, one_each=one_each)
        n = len(images)
        return ImageSet(images, np.arange(n), np.arange(n), self.record.spec), read

    def _as_seen(self, images: ImageSet, results: Results, run: Run) -> ImageSet:
        """Return the images, or the vectors (n, e, 1, 1) in their place where the model learnt from these."""
        if self.record.vectors is None:
            return images
        encoder, offer = built(self.record.vectors, results)
        with blame(self.record.title, offer):
            vectors = np.asarray(encoder.embed(replace(images, targets={}, target=""), run), np.float32)
        spec = vector_spec(images.spec, vectors.shape[1])
        return replace(images, images=vectors[:, :, None, None], spec=spec)

    def _whole(self, model: Any, results: Results) -> Whole:
        """Return the network from pixels to what a predictor says, through the encoder where it learnt from vectors."""
        spec = entering(self.record.spec, self.record.dtype)
        if self.record.vectors is None:
            return frozen(network_for_export(model, spec), None)
        encoder = built(self.record.vectors, results)[0]
        seen = vector_spec(self.record.spec, int(encoder.dim))
        return frozen(network_for_export(model, seen), network_for_export(encoder, spec))

    # ---- models

    def _run(self, use: str, seed: int) -> Run:
        key = child_seed(seed, use, self.record.recipe.key)
        return Run(key, self._device, name=self.record.stage, progress=self._progress)

    def _check_use(self, use: str) -> None:
        chosen([self.record], self.folder, use)

    def _predictor(self, results: Results) -> tuple[Any, Offer]:
        if self._adapted is not None:
            return self._adapted[0], component_of(self.record.recipe)[0]
        if self.record.adapted:
            return adapted(self.record.recipe, results.get(self.record.adapted, self.record.title), results)
        return built(self.record.recipe, results)

    def _check(self, made: Predictions, images: ImageSet) -> None:
        title = self.record.title
        if not np.array_equal(made.ids, images.ids):
            raise PluginError(f"{title}: predictions of other images; expected the ids of the images, in their order")
        _check_finite(
            {n: v for n, v in vars(made).items() if n in ("scores", "masks", "values") and v is not None}, title
        )


def vector_spec(spec: ImageSpec, dim: int) -> ImageSpec:
    """Return the spec of vectors (n, dim, 1, 1) that stand in for images."""
    return replace(spec, size=(1, 1), channels=dim, spacing=None)


def check_model_folder(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is an adapted model that may be overwritten.

    Raises:
        DataError: as said.
        ResourceError: it cannot be written.

    """
    if not out.exists() or out.is_dir():
        check_writable(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_adapted_model(out):
        raise DataError(Problem(str(out), "something else there", "a new folder for the model", "type --out FOLDER"))
    if not overwrite:
        raise DataError(Problem(str(out), "a model there", "a new folder", "type --overwrite to write in its place"))


def _drawn(labels: Array, names: tuple[str, ...], n_shot: int | None, seed: int, folder: Path) -> Array:
    """Return the rows to which a model is adapted, sorted: all, or `n_shot` of each class."""
    counts = np.bincount(labels, minlength=len(names)).tolist()
    if n_shot is None:
        return np.arange(len(labels))
    few = [(name, count) for name, count in zip(names, counts, strict=True) if count < n_shot]
    if few:
        problems = (Problem(name, f"{count} images", f"at least {n_shot} (--shots)") for name, count in few)
        raise DataError(*problems, title=str(folder))
    rng = numpy_generator(child_seed(seed, "shots"))
    rows = [rng.permutation(np.flatnonzero(labels == number))[:n_shot] for number in range(len(names))]
    return np.sort(np.concatenate(rows))


def _check_finite(arrays: Mapping[str, Array], title: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NumericalError(f"{title}: '{name}' holds NaN or infinity; expected finite numbers")
