"""Print what clusters of ACAI's vectors follow in colour images: `python docs/background_colour.py`.

1,200 drawings of 64 x 64 pixels: one of six shapes in one of six colours on a background of one of six colours, each
drawn on its own, at a random place and size, with noise. ACAI is trained without labels, its vectors are clustered by k-means into
36 parts, and the normalised mutual information of the parts with each of the three is printed (0: nothing, 1: the same).
"""

import colorsys

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

from fewcore import Embeddings, ImageSet, ImageSpec, Run
from fewcore_cluster.kmeans import KMeans
from fewcore_embed.acai import Acai

SIZE, N, KINDS, CLUSTERS, STEPS = 64, 1200, 6, 36, 300


def shapes(x, y):
    """Return where each of the six shapes is, of places x, y in units of its size."""
    square, disc = np.maximum(abs(x), abs(y)) < 1, x**2 + y**2 < 1
    ring, cross = disc & (x**2 + y**2 > 0.4), square & (np.minimum(abs(x), abs(y)) < 0.3)
    return [square, disc, ring, cross, (y < 1) & (abs(x) < (y + 1) / 2), square & (abs(x - y) < 0.5)]


def drawings(rng):
    """Return images (n, 3, 64, 64) uint8, and which shape, colour and background each has, (3, n)."""
    kinds = rng.integers(KINDS, size=(3, N))
    colours = np.array([colorsys.hsv_to_rgb(hue / KINDS, 0.7, 0.8) for hue in range(KINDS)])
    y, x = np.mgrid[:SIZE, :SIZE]
    images = np.empty((N, 3, SIZE, SIZE), np.uint8)
    for i, (shape, colour, background) in enumerate(kinds.T):
        half = rng.uniform(12, 22)
        middle = rng.uniform(half, SIZE - half, 2)
        inside = shapes((x - middle[0]) / half, (y - middle[1]) / half)[shape]
        pixels = np.where(inside, colours[colour][:, None, None], colours[background][:, None, None])
        images[i] = np.clip(255 * (pixels + rng.normal(0, 0.05, pixels.shape)), 0, 255)
    return images, kinds


pixels, kinds = drawings(np.random.default_rng(0))
rows = np.arange(N)
images = ImageSet(pixels, rows, rows, ImageSpec((SIZE, SIZE), 3, (0, 255)))
encoder = Acai(dim=64, steps=STEPS, batch_size=16, learning_rate=5e-4).fit(images, Run(0))
embeddings = Embeddings(np.asarray(encoder.embed(images, Run(0))), rows, encoder)
parts = KMeans(n_clusters=CLUSTERS, n_init=5, min_size=1, share=0.5).partition(embeddings, Run(0)).parts[0]
for name, truth in zip(("shape", "colour of the shape", "background colour"), kinds, strict=True):
    print(f"{name}: {normalized_mutual_info_score(truth, parts):.2f}")
