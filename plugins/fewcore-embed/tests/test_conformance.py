from fewcore.testing import conformance

TINY = {"width": 0.02, "size": [16, 16, 16]}
GAN = {"batch_size": 24, "width": 0.02, "statistics_batches": 3}
OPTIONS = {
    "alexnet": {"width": 0.05},
    "acai": {"steps": 3, "batch_size": 8},
    "bigan": {**GAN, "epochs": 1, "decay_epochs": 1, "dim": 4},
    "c3d": TINY,
    "c3d-tuned": {**TINY, "epochs": 1, "batch_size": 24},
    "deepcluster": {"n_clusters": 4, "epochs": 2, "batch_size": 24, "sobel": True},
    "embedder:timm": {"model": "test_resnet"},
    "gist": {"size": 32},
    "infogan": {**GAN, "steps": 4},
    "vae": {"steps": 3, "batch_size": 8, "dim": 4, "filters": 2},
    "vgg": {"width": 0.02, "size": 64},
}
SHAPES = {"alexnet": (3, 32, 32), "backbone:timm": (3, 32, 32), "c3d": (1, 16, 16, 16), "c3d-tuned": (1, 16, 16, 16)}


@conformance("fewcore-embed", options=OPTIONS, shapes=SHAPES)
def test_conformance(offer, check):
    check(offer)
