"""The learners on ratings that a linear map explains: what they learn, what they save, and what they refuse."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.linear_model import Lasso as PeerLasso
from sklearn.linear_model import Ridge as PeerRidge

from fewcore import DataError, Embeddings, ImageSet, ImageSpec, Run, Target
from fewcore_graphmtl.constant import Constant
from fewcore_graphmtl.graph_mtl import GraphMtl
from fewcore_graphmtl.graph_ratings import GraphRatings
from fewcore_graphmtl.lasso import Lasso
from fewcore_graphmtl.ratings import design, task_of
from fewcore_graphmtl.ridge import Ridge, _path
from fewcore_graphmtl.trace_norm_learner import TraceNormMtl

NAMES = ("malignancy", "calcification", "margin", "texture")
ALL = [GraphMtl(), TraceNormMtl(rho=1.0), Lasso(alpha=0.01), Ridge(alpha=1.0), Constant()]
WITH_FEATURES = ALL[:-1]


def called(component):
    return type(component).__name__


class Pixels:
    """The images themselves as vectors (n, e), or (n, m, e) where targets are named."""

    def __init__(self, target_names=()):
        self.target_names = target_names

    def embed(self, images, run):
        flat = images.images.reshape(len(images), -1)
        m = len(self.target_names)
        return flat.reshape(len(images), m, -1) if m else flat


def cohort(n=120, d=10, seed=0, readers=4, noise=0.4, target_names=(), alike=True):
    """Images whose pixels explain four ratings: malignancy, margin and texture alike, calcification otherwise."""
    rng = np.random.default_rng(seed)
    m = max(1, len(target_names))
    pixels = rng.normal(size=(n, m, d)).astype(np.float32)
    common = rng.normal(size=d) * (rng.random(d) < 0.6)
    truth = np.empty((n, len(NAMES)))
    for i, name in enumerate(NAMES):
        own = common + 0.1 * rng.normal(size=d) if alike and name != "calcification" else rng.normal(size=d)
        x = pixels[:, target_names.index(name)] if target_names else pixels[:, 0]
        truth[:, i] = 3 + 0.4 * x @ own
    ratings = truth[:, None] + noise * rng.normal(size=(n, readers, len(NAMES)))
    ratings[rng.random((n, readers)) < 0.2] = np.nan
    images = pixels.reshape(n, 1, 1, -1)
    spec = ImageSpec((1, images.shape[-1]), 1, (-9.0, 9.0))
    targets = {"ratings": Target("ratings", ratings, NAMES, (1.0, 5.0))}
    return ImageSet(images, np.arange(n) + 50, np.arange(n) // 2, spec, targets)


def embedded(images, target_names=()):
    encoder = Pixels(target_names)
    return Embeddings(encoder.embed(images, Run()), images.ids, encoder)


def with_ratings(images, ratings):
    return replace(images, targets={"ratings": replace(images.targets["ratings"], values=ratings)})


def learn(component, images, target_names=()):
    if isinstance(component, Constant):
        return component.learn(images, Run())
    return component.learn(images, embedded(images, target_names), Run())


def error_of(predictor, images, name="malignancy"):
    made = predictor.predict(replace(images, targets={}), Run())
    ratings = images.targets["ratings"].values[:, :, NAMES.index(name)]
    known = ~np.isnan(ratings).all(1)
    predicted = made.values[:, made.value_names.index(name)]
    return float(np.abs(predicted[known] - np.nanmean(ratings[known], 1)).mean())


def halves(images):
    rows = np.arange(len(images)) < len(images) // 2
    return tuple(
        ImageSet(
            images.images[keep],
            images.ids[keep],
            images.groups[keep],
            images.spec,
            {n: replace(t, values=t.values[keep]) for n, t in images.targets.items()},
        )
        for keep in (rows, ~rows)
    )


@pytest.mark.parametrize("component", WITH_FEATURES, ids=called)
def test_every_learner_beats_the_constant(component):
    train, test = halves(cohort(240))
    assert error_of(learn(component, train), test) < 0.6 * error_of(learn(Constant(), train), test)


def test_multi_task_learners_predict_all_attributes_the_asked_for_first():
    images = cohort()
    for component in (
        GraphMtl(attribute="margin", without=("texture",)),
        TraceNormMtl("margin", ("texture",), rho=1.0),
    ):
        made = learn(component, images).predict(images, Run())
        assert made.value_names == ("margin", "malignancy", "calcification")
        assert made.values.shape == (120, 3)
    assert learn(Lasso("margin", alpha=0.1), images).predict(images, Run()).value_names == ("margin",)
    assert learn(Constant("margin"), images).predict(images, Run()).value_names == ("margin",)


def test_the_constant_is_the_mean_of_the_images_scores():
    images = cohort()
    ratings = images.targets["ratings"].values[:, :, 0]
    scores = [np.mean([s for s in row if not np.isnan(s)]) for row in ratings if not np.isnan(row).all()]
    assert learn(Constant(), images).predict(images, Run()).values[5, 0] == pytest.approx(np.mean(scores))


def test_lasso_and_ridge_are_scikit_learns_on_standardised_features():
    images = cohort()
    ratings = images.targets["ratings"].values[:, :, 0]
    known = ~np.isnan(ratings).all(1)
    x = images.images.reshape(len(images), -1).astype(np.float64)
    mean, scale = x[known].mean(0), x[known].std(0)
    y = np.nanmean(ratings[known], 1)
    for ours, peer in ((Lasso(alpha=0.05), PeerLasso(alpha=0.05, tol=1e-8)), (Ridge(alpha=7.0), PeerRidge(alpha=7.0))):
        expected = peer.fit((x[known] - mean) / scale, y).predict((x - mean) / scale)
        np.testing.assert_allclose(learn(ours, images).predict(images, Run()).values[:, 0], expected, atol=2e-3)


@pytest.mark.parametrize("n, d", [(30, 8), (10, 25)])
def test_one_decomposition_gives_every_ridge(n, d):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, d)), rng.normal(size=n)
    found = _path(x, y, [0.0, 0.5, 30.0])
    np.testing.assert_allclose(found[0], np.linalg.lstsq(x, y)[0], atol=1e-8)
    for w, alpha in zip(found[1:], (0.5, 30.0), strict=True):
        np.testing.assert_allclose(w, PeerRidge(alpha=alpha, fit_intercept=False).fit(x, y).coef_, atol=1e-8)


def test_alike_attributes_are_joined_and_drawn():
    predictor = learn(GraphMtl(threshold=0.8), cohort(300))
    assert {frozenset(edge) for edge in predictor.edges} == {
        frozenset(pair) for pair in (("malignancy", "margin"), ("malignancy", "texture"), ("margin", "texture"))
    }
    axes = Figure().add_subplot()
    assert predictor.draw(axes) == "3 edges of a correlation above 0.8 among 4 attributes"
    assert {text.get_text() for text in axes.texts} >= set(NAMES)
    assert len(axes.lines) == 3
    assert not hasattr(learn(Lasso(alpha=0.1), cohort()), "draw")


def test_an_empty_graph_leaves_independent_lassos():
    images = cohort(alike=False)
    run = Run()
    found = GraphMtl(threshold=1.0, inconsistency="none").learn(images, embedded(images), run)
    assert found.edges == ()
    assert run.records[-1]["edges"] == 0
    known = int(np.sum(~np.isnan(images.targets["ratings"].values[:, :, 0]).all(1)))
    alone = learn(Lasso(alpha=10.0 / known), images)
    values = found.predict(images, Run()).values[:, 0]
    np.testing.assert_allclose(values, alone.predict(images, Run()).values[:, 0], atol=1e-2)


@pytest.mark.parametrize("alike", [True, False])
def test_a_threshold_is_chosen_by_the_error_on_held_out_patients(alike):
    images = cohort(60, d=20, noise=1.5, alike=alike)
    options = {"rho1": 100.0, "rho2": 0.1}
    chosen = learn(GraphMtl(threshold=None, **options), images)
    assert bool(chosen.edges) == alike
    given = learn(GraphMtl(threshold=chosen.facts["threshold"], **options), images)
    np.testing.assert_array_equal(chosen.weights, given.weights)


def test_a_strong_graph_makes_coefficients_alike():
    images = cohort()
    apart, together = (
        learn(GraphMtl(rho1=rho1, rho2=0.1, threshold=0.5, inconsistency="none"), images) for rho1 in (0.0, 1e6)
    )
    i, j = (apart.names.index(name) for name in ("malignancy", "margin"))
    assert ("malignancy", "margin") in together.edges

    def difference(predictor):
        return np.abs(predictor.weights[i] - predictor.weights[j]).max()

    assert difference(together) < 0.05 * difference(apart)


def test_each_attribute_is_learnt_from_its_own_features():
    order = ("texture", "margin", "calcification", "malignancy")
    images = cohort(300, target_names=order)
    for component in (GraphMtl(rho2=1.0), TraceNormMtl(rho=1.0)):
        found = learn(component, images, order)
        np.testing.assert_array_equal(found.places, [3, 2, 1, 0])
        for name in NAMES:
            assert error_of(found, images, name) < 0.4
    assert error_of(learn(Lasso(), images, order), images) < 0.4
    constant = error_of(learn(Constant(), images), images)
    assert error_of(learn(Lasso(feature="texture"), images, order), images) > 0.8 * constant


def test_features_must_be_named_and_complete():
    order = ("texture", "margin", "calcification", "malignancy")
    images = cohort(target_names=order)
    good = embedded(images, order)
    nameless = Embeddings(good.vectors, good.ids, Pixels())
    with pytest.raises(DataError, match=r"lasso: found vectors \(120, 4, 10\) and 0 names of targets"):
        Lasso().learn(images, nameless, Run())
    three = Embeddings(good.vectors[:, :3], good.ids, Pixels(order[:3]))
    with pytest.raises(DataError, match="graph-mtl: features: found 'malignancy'; expected one of: texture, margin"):
        GraphMtl().learn(images, three, Run())
    with pytest.raises(DataError, match=r"ridge: features: found 'textur'; .*did you mean 'texture'"):
        Ridge(feature="textur").learn(images, good, Run())


@pytest.mark.parametrize("mode", ["literal", "literal-mean-at-test", "inverse-weight", "none"])
def test_inconsistency_enters_as_the_mode_says(mode):
    images = cohort()
    task = task_of(images, embedded(images), "malignancy", "malignancy", "test")
    made = design(task, mode, "center")
    weight = 1 / task.psi / (1 / task.psi).mean() if mode == "inverse-weight" else np.ones(len(task.psi))
    mean = np.average(task.vectors.astype(float), axis=0, weights=weight)
    level = np.average(task.scores, weights=weight)
    w = np.random.default_rng(0).normal(size=10)
    for j in range(0, len(task.psi), 7):
        x = (task.vectors[j].astype(float) - mean) / task.vectors.astype(float).std(0)
        x, y = (x + task.psi[j] if mode.startswith("literal") else x), task.scores[j] - level
        np.testing.assert_allclose(made.x[j], x * weight[j] ** 0.5, atol=1e-10)
        assert made.y[j] == pytest.approx(y * weight[j] ** 0.5)
    own, shift = made.unscaled(w)
    x = (task.vectors[0].astype(float) - mean) / task.vectors.astype(float).std(0)
    x = x + task.psi.mean() if mode == "literal-mean-at-test" else x
    assert task.vectors[0] @ own + shift == pytest.approx(x @ w + level)


def test_the_weighted_intercept_is_the_best_one():
    images = cohort()
    task = task_of(images, embedded(images), "malignancy", "malignancy", "test")
    made = design(task, "inverse-weight", "center")
    w, level = made.unscaled(np.linalg.lstsq(made.x, made.y)[0])
    root = (1 / task.psi) ** 0.5  # the scale of the weights does not matter here
    table = np.concatenate([task.vectors, np.ones((len(root), 1))], 1) * root[:, None]
    np.testing.assert_allclose([*w, level], np.linalg.lstsq(table, task.scores * root)[0], atol=1e-5)


def errors_of_modes(uneven, intercept):
    """Mean error on new images of each mode, where readers err equally (uneven = 0) or on some images more."""
    errors = {mode: [] for mode in ("none", "inverse-weight", "literal", "literal-mean-at-test")}
    for seed in range(3):
        images = cohort(300, 30, seed, noise=0.0)
        rng = np.random.default_rng(seed)
        spread = 0.7 * np.exp(uneven * rng.normal(size=(300, 1, 1)))
        ratings = images.targets["ratings"].values
        noisy = np.clip(np.round(ratings + spread * rng.normal(size=ratings.shape)), 1, 5)
        images = replace(images, images=images.images + 1)
        train, test = halves(with_ratings(images, noisy))
        for mode, found in errors.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                learner = GraphMtl(inconsistency=mode, rho2=3.0, intercept=intercept)
                found.append(error_of(learn(learner, train), test))
    return {mode: np.mean(found) for mode, found in errors.items()}


@pytest.mark.parametrize("uneven", [0.0, 0.8])
def test_inverse_weight_does_no_harm_and_the_literal_reading_does(uneven):
    centred, literally = errors_of_modes(uneven, "center"), errors_of_modes(uneven, "none")
    for found in (centred, literally):
        assert found["inverse-weight"] < 1.06 * found["none"]
    assert literally["literal"] > 2 * literally["none"]
    assert literally["literal-mean-at-test"] > 1.05 * literally["none"]


def test_the_literal_reading_warns():
    with pytest.warns(UserWarning, match="unknown when predicting; errors on new images grow"):
        learn(GraphMtl(inconsistency="literal"), cohort())


def test_without_an_intercept_nothing_is_centred():
    images = cohort()
    positive = replace(images, images=images.images + 6)
    found = learn(GraphMtl(intercept="none", rho2=0.1, inconsistency="none"), positive)
    assert (found.levels == 0).all()
    assert error_of(found, positive) < 0.4


def test_the_papers_scale_halves_the_penalties():
    images = cohort()
    whole = learn(GraphMtl(rho1=2.0, rho2=4.0, paper_scale=True), images)
    half = learn(GraphMtl(rho1=1.0, rho2=2.0), images)
    np.testing.assert_allclose(whole.weights, half.weights, atol=1e-5)
    assert whole.facts["objective"] == pytest.approx(2 * half.facts["objective"])


@pytest.mark.parametrize(
    "component", [GraphMtl(rho1=None, rho2=None, folds=2), TraceNormMtl(folds=3), Lasso(), Ridge()], ids=called
)
def test_penalties_chosen_by_cross_validation_are_about_as_good_as_the_best(component):
    train, test = halves(cohort(160, 40, noise=1.0))
    best = min(error_of(learn(Ridge(alpha=a), train), test) for a in (0.1, 1.0, 10.0, 100.0))
    assert error_of(learn(component, train), test) < 1.25 * best


def test_cross_validation_parts_no_patient():
    images = cohort(12)
    seen = []

    def fit_all(tasks, candidates):
        seen.append(set(tasks[0].groups.tolist()))
        return [[(np.zeros(10), float(c))] for c in candidates]

    from fewcore_graphmtl.cross_validation import best_candidate

    task = task_of(images, embedded(images), "malignancy", "malignancy", "test")
    best = best_candidate([task], [0.0, float(task.scores.mean())], fit_all, 3, Run(), "test")
    assert best == pytest.approx(task.scores.mean())
    assert len(seen) == 3
    everyone = set(task.groups.tolist())
    held_out = [everyone - kept for kept in seen]
    assert set().union(*held_out) == everyone
    assert sum(map(len, held_out)) == len(everyone)


def test_fewer_patients_than_folds_make_as_many_folds_and_one_is_refused():
    images = cohort(6)
    assert learn(Lasso(folds=5), images).predict(images, Run()).values.shape == (6, 1)
    one = replace(images, groups=np.zeros(6, int))
    for component in (Lasso(), Ridge(), TraceNormMtl(), GraphMtl(rho2=None)):
        with pytest.raises(
            DataError, match="found the rated images of 1 patient; expected at least 2 to choose a penalty"
        ):
            learn(component, one)
    assert np.isfinite(learn(Lasso(alpha=0.1), one).weights).all()


@pytest.mark.parametrize("component", WITH_FEATURES, ids=called)
def test_constant_features_get_no_weight_and_all_constant_is_refused(component):
    images = cohort()
    pixels = images.images.copy()
    pixels[..., [1, 4]] = [7.5, 0]
    found = learn(component, replace(images, images=pixels))
    assert (found.weights[:, [1, 4]] == 0).all()
    assert (found.weights != 0).any()
    with pytest.raises(
        DataError, match="found 10 features, all constant on 120 rated images; expected features that vary"
    ):
        learn(component, replace(cohort(readers=12), images=np.full_like(pixels, 0.3)))


@pytest.mark.parametrize("component", ALL, ids=called)
def test_images_that_nobody_rated_teach_nothing(component):
    images = cohort()
    ratings = images.targets["ratings"].values.copy()
    ratings[::3] = np.nan
    gaps = with_ratings(images, ratings)
    rows = np.flatnonzero(np.arange(120) % 3)
    fewer = ImageSet(
        images.images[rows],
        images.ids[rows],
        images.groups[rows],
        images.spec,
        {"ratings": replace(images.targets["ratings"], values=ratings[rows])},
    )
    first, second = (learn(component, one).predict(images, Run()).values for one in (gaps, fewer))
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("component", ALL, ids=called)
def test_ratings_that_are_missing_are_said(component):
    images = cohort()
    ratings = images.targets["ratings"].values.copy()
    ratings[:, :, 0] = np.nan
    for values in (ratings, np.full_like(ratings, np.nan)):
        with pytest.raises(DataError, match="found no rating of 'malignancy' in 120 training images"):
            learn(component, with_ratings(images, values))
    other = replace(images.targets["ratings"], names=("malignant", "calcification", "margin", "texture"))
    with pytest.raises(DataError, match=r"found 'malignancy'; expected one of: malignant, .*did you mean 'malignant'"):
        learn(component, replace(images, targets={"ratings": other}))
    with pytest.raises(DataError, match="found no targets; expected a target of kind ratings"):
        learn(component, replace(images, targets={}))


@pytest.mark.parametrize("component", [GraphMtl(), TraceNormMtl(rho=1.0)], ids=called)
def test_an_attribute_that_nobody_rated_is_left_out_with_a_warning(component):
    images = cohort()
    ratings = images.targets["ratings"].values.copy()
    ratings[:, :, 1] = np.nan
    with pytest.warns(UserWarning, match="no reader rated 'calcification' on these 120 images; it is left out"):
        found = learn(component, with_ratings(images, ratings))
    assert found.names == ("malignancy", "margin", "texture")


def test_attributes_that_are_left_out_must_be_there_and_not_the_one_to_predict():
    with pytest.raises(DataError, match=r"graph-mtl: without: found 'margins'; .*did you mean 'margin'"):
        learn(GraphMtl(without=("margins",)), cohort())
    for made in (GraphMtl, TraceNormMtl):
        with pytest.raises(ValueError, match="without: found 'malignancy', the attribute to predict"):
            made(without=("malignancy",))


def test_one_task_is_enough():
    images = cohort()
    for component in (GraphMtl(without=NAMES[1:]), TraceNormMtl(without=NAMES[1:], rho=1.0)):
        found = learn(component, images)
        assert found.names == ("malignancy",)
        assert getattr(found, "edges", ()) == ()
        assert error_of(found, images) < 0.5


@pytest.mark.parametrize("component", WITH_FEATURES, ids=called)
def test_vectors_must_be_finite_and_those_of_the_images(component):
    images = cohort()
    good = embedded(images)
    holes = good.vectors.copy()
    holes[3, 2] = np.nan
    with pytest.raises(DataError, match="found NaN or infinity in 1 of 120 vectors; expected finite numbers"):
        component.learn(images, Embeddings(holes, good.ids, good.encoder), Run())
    with pytest.raises(DataError, match="found vectors of other images"):
        component.learn(images, Embeddings(good.vectors, good.ids[::-1], good.encoder), Run())
    found = learn(component, images)
    with pytest.raises(DataError, match="predict: found NaN or infinity in vectors"):
        found.predict(replace(images, images=holes.reshape(images.images.shape)), Run())


def test_the_graph_is_kept_when_saved():
    images = cohort(300)
    found = learn(GraphMtl(threshold=0.8), images)
    arrays, meta = found.to_arrays()
    again = GraphRatings.from_arrays(arrays, meta, {"embeddings": embedded(images)})
    assert again.edges == found.edges != ()
    np.testing.assert_array_equal(again.predict(images, Run()).values, found.predict(images, Run()).values)
