"""The few-shot evaluator: accuracies, intervals, seeds, folds, pairs."""

import math

import numpy as np
import pytest

from fewcore import DataError, Outcome, Predictions, Run, Seen, Target, holm, mean_interval, paired_comparison
from fewcore.builtin.few_shot import FewShot

T, Q, K = 200, 10, 5
LABELS = np.tile(np.repeat(np.arange(K), Q // K), (T, 1))


def outcome(stage="maml", skill=1.0, seed=0, labels=LABELS, repeats=None, split="test", scores=None, **conditions):
    if scores is None:
        rng = np.random.default_rng([seed, int(skill * 100)])
        scores = rng.normal(size=(*labels.shape, K)) + skill * (labels[..., None] == np.arange(K))
    numbers = np.arange(len(labels))
    return Outcome(
        stage,
        f"{stage}-method",
        Predictions(numbers, scores=scores),
        split,
        numbers,
        numbers,
        query_labels=labels,
        conditions={"way": K, "shot": 1, **conditions},
        repeats={"seed": seed} if repeats is None else repeats,
        seen=Seen(labels={"train": 61}),
        norm="support",
    )


def accuracy(outcome):
    """A task and a query at a time."""
    values = []
    for scores, labels in zip(outcome.predictions.scores, outcome.query_labels, strict=True):
        known = [(s, y) for s, y in zip(scores, labels, strict=True) if y >= 0]
        values.append(sum(int(np.argmax(s) == y) for s, y in known) / len(known))
    return np.array(values)


def evaluate(*outcomes, **options):
    return FewShot(**options).evaluate(outcomes, Run())


def test_one_row_agrees_with_the_slow_form():
    one = outcome()
    (row,) = evaluate(one).rows
    values = accuracy(one)
    assert row.value == pytest.approx(values.mean())
    assert row.ci95 == pytest.approx(mean_interval(values).ci95)
    assert (row.metric, row.n, row.stage, row.method) == ("accuracy", T, "maml", "maml-method")
    assert (row.conditions, row.repeats) == ({"way": 5, "shot": 1}, {"seed": 0})
    assert (row.split, row.norm, row.seen) == ("test", "support", "labels: 61 training")
    np.testing.assert_allclose(evaluate(one).arrays["maml, way 5, shot 1, seed 0"], values)


def test_padding_counts_for_nothing():
    labels = LABELS.copy()
    labels[:, -3:] = -1
    padded, wild = outcome(labels=labels), outcome(labels=labels).predictions.scores.copy()
    wild[:, -3:] = math.nan
    assert evaluate(outcome(labels=labels, scores=wild)).rows == evaluate(padded).rows
    assert evaluate(padded).rows[0].value == pytest.approx(accuracy(padded).mean())


def test_perfect_and_guessing_models():
    eye = np.eye(K)[LABELS]
    assert evaluate(outcome(scores=eye)).rows[0].value == 1.0
    assert evaluate(outcome(scores=np.zeros((T, Q, K)))).rows[0].value == pytest.approx(1 / K)


def test_seeds_have_rows_of_their_own_and_a_mean():
    three = [outcome(seed=s, skill=1 + s / 5) for s in range(3)]
    rows = evaluate(*three).rows
    table = np.stack([accuracy(o) for o in three])
    assert [row.repeats for row in rows] == [{"seed": 0}, {"seed": 1}, {"seed": 2}, {"seed": "mean of 3"}]
    assert rows[3].value == pytest.approx(table.mean())
    assert rows[3].ci95 == pytest.approx(mean_interval(table.mean(0)).ci95)
    assert rows[3].n == T
    assert rows[3].note == (
        f"over tasks, each averaged over repeats; sd between repeats {table.mean(1).std(ddof=1):.3g}"
    )


def test_folds_stand_side_by_side():
    folds = [outcome(repeats={"seed": s, "fold": f}, seed=10 * s + f) for s in range(2) for f in range(3)]
    rows = evaluate(*folds).rows
    assert [row.repeats for row in rows] == [
        {"seed": 0, "fold": "all 3"},
        {"seed": 1, "fold": "all 3"},
        {"seed": "mean of 2", "fold": "all 3"},
    ]
    assert rows[2].n == 3 * T
    assert rows[2].value == pytest.approx(np.mean([accuracy(o) for o in folds]))


def test_a_seed_without_all_its_folds_enters_no_mean():
    folds = [outcome(repeats={"seed": s, "fold": f}) for s, f in ((0, 0), (0, 1), (1, 0))]
    report = evaluate(*folds, outcome("knn"))
    assert [row.repeats["seed"] for row in report.rows] == [0, 1, 0]
    assert report.rows[1].repeats == {"seed": 1, "fold": 0}
    assert report.comparisons == ()


def test_comparisons_are_paired_and_corrected_over_the_whole_table():
    made = [
        outcome(stage, skill, seed=seed, way=K, shot=shot)
        for stage, skill in (("maml", 1.0), ("knn", 1.2), ("scratch", 0.4))
        for shot in (1, 5)
        for seed in ((0, 1) if stage == "maml" else (0,))
    ]
    found = evaluate(*made).comparisons
    assert [(c.first, c.second, c.conditions["shot"]) for c in found] == [
        ("maml", "knn", 1),
        ("maml", "scratch", 1),
        ("maml", "knn", 5),
        ("maml", "scratch", 5),
        ("knn", "scratch", 1),
        ("knn", "scratch", 5),
    ]
    maml = np.mean([accuracy(o) for o in made if o.stage == "maml" and o.conditions["shot"] == 1], 0)
    expected = paired_comparison(maml, accuracy(made[4]))
    assert found[0].p == pytest.approx(expected.p)
    assert found[0].difference == pytest.approx(expected.difference)
    assert (found[0].test, found[0].n) == ("paired t", T)
    np.testing.assert_allclose([c.p_holm for c in found], holm(np.array([c.p for c in found])))
    assert all(c.p_holm >= c.p for c in found)
    assert evaluate(*made, test="wilcoxon").comparisons[0].test == "Wilcoxon signed-rank"


def test_axes_that_one_model_does_not_have_do_not_part_them():
    three = outcome("maml", **{"stages.parts.n_clusters": 3})
    four = outcome("maml", 1.1, **{"stages.parts.n_clusters": 4})
    found = evaluate(three, four, outcome("knn")).comparisons
    assert [(c.first, c.second, c.conditions["stages.parts.n_clusters"]) for c in found] == [
        ("maml", "knn", 3),
        ("maml", "knn", 4),
    ]


def test_what_is_put_into_a_stages_place_is_another_model():
    a = outcome("model", 1.0, **{"stages.net": "conv4", "labels.share": 0.1})
    b = outcome("model", 1.3, **{"stages.net": "resnet", "labels.share": 0.1})
    c = outcome("model", 1.3, **{"stages.net": "resnet", "labels.share": 0.2})
    (found,) = evaluate(a, b, c).comparisons
    assert (found.first, found.second) == ("model [conv4]", "model [resnet]")
    assert found.conditions == {"way": 5, "shot": 1, "labels.share": 0.1}


def test_other_tasks_and_validation_rows_are_not_compared():
    assert not evaluate(outcome("maml"), outcome("knn", labels=LABELS[:, ::-1])).comparisons
    report = evaluate(outcome("maml", split="validation"), outcome("knn", split="validation"))
    assert not report.comparisons
    assert [row.split for row in report.rows] == ["validation", "validation"]


def test_models_without_tasks_are_named():
    truth = {"class": Target("class", np.zeros(2, int), ("a",))}
    two = np.arange(2)
    learner = Outcome("tuned", "fine-tune", Predictions(two, scores=np.ones((2, 1))), "test", two, two, truth)
    report = evaluate(learner, outcome())
    assert report.left_out == ("tuned",)
    assert len(report.rows) == 1
    assert evaluate(learner).rows == ()


def test_nan_scores_are_refused():
    scores = np.zeros((T, Q, K))
    scores[3, 2, 1] = math.nan
    with pytest.raises(DataError) as error:
        evaluate(outcome(scores=scores))
    assert str(error.value) == "maml: found NaN among the scores of queries; expected numbers"
