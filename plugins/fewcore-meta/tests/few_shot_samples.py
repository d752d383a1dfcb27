"""Small images, tasks and streams for the tests of few-shot models."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch

from fewcore import Embeddings, ImageSet, ImageSpec, Run, Target, TaskBatch


class Flat:
    """Pixels as vectors."""

    dim = 6

    def embed(self, images, run):
        return images.images.reshape(len(images), -1).astype(np.float32)

    def to_arrays(self):
        return {}, {}


class Tasks:
    """A finite stream of given batches."""

    def __init__(self, *batches):
        self.n_way = tuple({b.n_way for b in batches})
        self.n_shot = tuple({b.n_shot for b in batches})
        self._batches = batches

    def batches(self):
        yield from self._batches


def image_set(pixels, labels, value_range):
    """Images (n, c, h, w) with known classes."""
    ids = np.arange(len(labels))
    target = Target("class", labels, tuple(f"c{k}" for k in range(labels.max() + 1)))
    spec = ImageSpec(pixels.shape[2:], pixels.shape[1], value_range)
    return ImageSet(pixels.astype(np.float32), ids, ids, spec, {"class": target}, {}, "class")


def two_class_images(n, seed, side=6):
    """Noisy images (n, 1, side, side), benign and malignant in turn; malignant ones have a brighter corner."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 200, (n, 1, side, side), dtype=np.uint8)
    pixels[labels == 1, :, : side // 2, : side // 2] += 50
    ids = np.arange(n)
    target = Target("class", labels, ("benign", "malignant"))
    return ImageSet(pixels, ids, ids, ImageSpec((side, side), 1, (0, 255)), {"class": target}, {}, "class")


def make_images(n_classes=8, each=12, dim=6, spread=1.0, seed=0):
    """Vectors (n, dim, 1, 1) around one random centre a class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), each)
    centres = rng.normal(size=(n_classes, dim))
    vectors = centres[labels] + spread * rng.normal(size=(len(labels), dim))
    return image_set(vectors[:, :, None, None], labels, (-9, 9))


def make_patterns(n_classes=8, each=12, side=8, noise=0.2, seed=0):
    """Noisy copies of one random pattern a class, (n, 1, side, side)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), each)
    patterns = rng.random((n_classes, 1, side, side))
    pixels = patterns[labels] + noise * rng.normal(size=(len(labels), 1, side, side))
    return image_set(pixels.clip(0, 1), labels, (0, 1))


def draw(images, t, way, shot, n_query=5, seed=0):
    """t tasks from the classes, each with n_query queries a class."""
    rng = np.random.default_rng(seed)
    labels = images.labels
    support, query = [], []
    for _ in range(t):
        classes = rng.permutation(labels.max() + 1)[:way]
        rows = np.stack([rng.permutation(np.flatnonzero(labels == c))[: shot + n_query] for c in classes])
        support.append(rows[:, :shot].ravel())
        query.append(rows[:, shot:].ravel())

    def tile(each):
        return np.tile(np.repeat(np.arange(way), each), (t, 1))

    return TaskBatch(np.array(support), tile(shot), np.array(query), tile(n_query), np.arange(t), way, shot)


def hidden(batch):
    """The batch without query labels."""
    return replace(batch, query_labels=np.full_like(batch.query_labels, -1))


def vectors_of(images):
    return Embeddings(Flat().embed(images, None), images.ids, Flat())


def plain(images, rows):
    """Some of the images, without what is known of them."""
    return ImageSet(images.images[rows], images.ids[rows], images.ids[rows], images.spec)


def labelled(images, rows, labels, way):
    """Some of the images with other classes, k0 to k(way - 1)."""
    target = Target("class", np.asarray(labels), tuple(f"k{i}" for i in range(way)))
    return replace(plain(images, rows), targets={"class": target}, target="class")


def saved(value, **inputs):
    """The value after a round through arrays and JSON."""
    arrays, meta = value.to_arrays()
    return type(value).from_arrays(arrays, json.loads(json.dumps(meta)), inputs)


def assert_saved_answers_are_equal(model, batch, images, inputs, rtol=0.0, atol=0.0):
    """The model, and its predictor for the first task, answer bit for bit as before once saved, and agree."""
    scores = model.classify(batch, images, Run())
    again = saved(model, **inputs)
    assert again.norm == model.norm
    np.testing.assert_array_equal(again.classify(batch, images, Run()), scores)
    predictor = model.adapt(labelled(images, batch.support[0], batch.support_labels[0], batch.n_way), Run())
    queries = plain(images, batch.query[0])
    made = predictor.predict(queries, Run()).scores
    np.testing.assert_allclose(made, scores[0], rtol=rtol, atol=atol)
    np.testing.assert_array_equal(saved(predictor, **inputs).predict(queries, Run()).scores, made)


def assert_padding_changes_nothing(model, batch, images):
    """The last three queries of each task, turned into padding, score 0 and change no other score."""
    padded = replace(batch, query=batch.query.copy())
    padded.query[:, -3:] = -1
    whole, cut = (model.classify(hidden(b), images, Run()) for b in (batch, padded))
    assert (cut[:, -3:] == 0).all()
    np.testing.assert_array_equal(cut[:, :-3], whole[:, :-3])


def own_parameters(network, t, seed=1):
    """Different parameters for each task, with a leading t."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (p.detach() + 0.3 * torch.randn(t, *p.shape, dtype=p.dtype, generator=generator)).requires_grad_()
        for name, p in network.named_parameters()
    }
