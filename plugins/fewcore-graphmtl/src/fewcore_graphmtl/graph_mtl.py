"""Graph-regularised sparse multi-task regression of malignancy and its attributes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from fewcore import Array, Embeddings, ImageSet, Run, option
from fewcore_graphmtl import graph_sparse
from fewcore_graphmtl.cross_validation import Fitted, best_candidate
from fewcore_graphmtl.fista import Solution
from fewcore_graphmtl.graph_ratings import GraphRatings
from fewcore_graphmtl.inconsistency import warn_of_literal
from fewcore_graphmtl.least_squares import TaskSquares, laplacian
from fewcore_graphmtl.multi_task import (
    check_solved,
    check_without,
    designs_of,
    fitted,
    predictor_of,
    problem_of,
    tasks_of,
)
from fewcore_graphmtl.ratings import Task, design
from fewcore_graphmtl.structure import coefficient_correlation, graph_edges, own_coefficients, structure_matrix

THRESHOLD_GRID = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3)
RHO1_GRID = (0.1, 1.0, 10.0, 100.0)
RHO2_SHARES = tuple(np.logspace(-0.25, -2.25, 5).tolist())
"""Candidates for rho2, as shares of that at which all weights are 0."""
WHO = "graph-mtl"

Candidate = tuple[float, float, float]
"""Threshold, rho1 and rho2."""


@dataclass(frozen=True)
class GraphMtl:
    """A sparse linear map for each rated attribute, alike where the attributes are: all learnt together.

    Each attribute is a task; an image's score is the mean over its readers. First each task is solved alone (LASSO with
    `graph_penalty`); tasks whose coefficients correlate by more than `threshold` are joined by an edge. Then
    sum_i 1/2 ||X_i w_i - y_i||^2 + rho1 * (squared difference of w along all edges) + rho2 ||W||_1 is minimised (FISTA,
    float64, on the run's device, to a certified gap). Without an edge that is a LASSO for each attribute. All attributes
    are predicted, `attribute` first. Where the encoder makes features for each attribute, each is learnt and predicted
    from its own.

    Readers' disagreement Psi (eq. 5): `inverse-weight` divides an image's squared error by it (weights of mean 1);
    `literal` adds it to every feature in training, as the paper writes; `literal-mean-at-test` also adds its training
    mean when predicting; `none` leaves it out. Psi is unknown when predicting, so that `literal` shifts features in
    training alone: it warns.

    Source: S. Hussein, P. Kandel, C. W. Bolan, M. B. Wallace, U. Bagci: Lung and Pancreatic Tumor Characterization in
    the Deep Learning Era: Novel Supervised and Unsupervised Learning Approaches, IEEE TMI 38, 2019, arXiv:1801.03230,
    eq. 6; solver and recipe of the graph: J. Zhou, J. Chen, J. Ye: MALSAR, Arizona State University, 2012.

    Differs from the paper: `none` is the default, since on LIDC the others bring nothing or harm. Features are scaled to
    spread 1 on the training rows and centred, and the mean score is added back (`intercept: none` leaves both out). The
    squared error has MALSAR's half unless `paper_scale`. The paper names no threshold and no penalty for the graph:
    these are MALSAR's. What is null is chosen by cross-validation on the training patients, for the squared error of
    `attribute`; the correlations are those of all training rows. The graph's coefficients are exact (LARS); MALSAR's descent stops
    before them.

    Raises:
        DataError: there are no ratings, the attribute or a name in `without` is not among them, vectors are not finite,
            no feature varies, or the encoder has no features of an attribute.
        NumericalError: the problem could not be solved.

    """

    deterministic: ClassVar[bool] = True

    attribute: str = option("malignancy", "the rated attribute that is predicted first and judged by")
    without: tuple[str, ...] = option((), "attributes to leave out")
    rho1: float | None = option(1.0, "weight of the graph; null chooses it by cross-validation", paper="1", low=0)
    rho2: float | None = option(10.0, "weight of sparsity; null chooses it by cross-validation", paper="10", low=0)
    inconsistency: Literal["inverse-weight", "literal", "literal-mean-at-test", "none"] = option(
        "none", "what the readers' disagreement does", paper="literal"
    )
    threshold: float | None = option(
        0.85,
        "correlation from which an edge is drawn; null chooses it by cross-validation",
        paper="not given",
        low=-1,
        high=1,
    )
    graph_penalty: float = option(0.01, "LASSO penalty of the coefficients that are correlated", low=0)
    intercept: Literal["center", "none"] = option(
        "center", "centre features and scores, or take them as they are", paper="none"
    )
    paper_scale: bool = option(False, "leave out the half in the squared error", paper="true")
    folds: int = option(5, "folds of cross-validation, where a penalty is null", low=2)

    def __post_init__(self) -> None:
        check_without(self.attribute, self.without)

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> GraphRatings:
        """Return the predictor of all attributes, with the graph in its `facts`."""
        warn_of_literal(self.inconsistency)
        tasks = tasks_of(images, embeddings, self.attribute, self.without, WHO)
        correlation, reached = self._correlation(tasks, run)
        candidates = self._candidates(tasks, run)

        def fit_all(kept: Sequence[Task], all_of: Sequence[Any]) -> list[Fitted]:
            names = {one.name for one in kept}
            own = np.array([task.name in names for task in tasks])
            return self._fit_all(kept, all_of, correlation[np.ix_(own, own)], run)

        threshold, rho1, rho2 = best_candidate(tasks, candidates, fit_all, self.folds, run, WHO)
        edges = graph_edges(correlation, threshold)
        weights, levels = np.zeros((len(tasks), embeddings.vectors.shape[-1])), np.zeros(len(tasks))
        facts: dict[str, Any] = {"rho1": rho1, "rho2": rho2, "threshold": threshold}
        for _ in run.loop(1, name="solve", weights=weights, levels=levels, facts=facts):
            designs = designs_of(tasks, self.inconsistency, self.intercept)
            problem = problem_of(designs, run.device)
            found = self._solve(problem, edges, rho1, rho2, tol=1e-6, max_iter=20_000)
            check_solved(found, WHO)
            for task, (own, level) in enumerate(fitted(designs, found.w)):
                weights[task], levels[task] = own, level
            facts["edges"] = [[tasks[i].name, tasks[j].name] for i, j in edges]
            facts["correlation"] = correlation.tolist()
            facts["objective"] = found.objective / self._half
            facts["gap"] = found.gap
            facts["graph_penalty"] = reached
            run.log(edges=len(edges), objective=found.objective / self._half, nonzero=float((found.w != 0).sum()))
        return predictor_of(GraphRatings, embeddings, tasks, weights, levels, facts)

    @property
    def _half(self) -> float:
        return 0.5 if self.paper_scale else 1.0

    def _correlation(self, tasks: Sequence[Task], run: Run) -> tuple[Array, float]:
        """Return the correlation (t, t) of the tasks' own coefficients, and the penalty at which they were reached."""
        made = np.zeros((len(tasks), tasks[0].vectors.shape[1]))
        reached = np.full(1, self.graph_penalty)
        for task in run.loop(len(tasks), name="graph", made=made, reached=reached):
            one = design(tasks[task], self.inconsistency, self.intercept)
            w, stopped = own_coefficients([(one.x, one.y)], self.graph_penalty)
            made[task], reached[0] = w[:, 0], max(reached[0], stopped)
        return coefficient_correlation(made.T), float(reached[0])

    def _solve(
        self,
        problem: TaskSquares,
        edges: Array,
        rho1: float,
        rho2: float,
        *,
        tol: float,
        max_iter: int,
        start: torch.Tensor | None = None,
    ) -> Solution:
        t = problem.shape[0]
        graph = laplacian(structure_matrix(edges, t), self._half * rho1, t, problem.slope.device)
        whole = problem.with_graph(graph)
        return graph_sparse.solve(whole, self._half * rho2, tol=tol, max_iter=max_iter, start=start)

    def _candidates(self, tasks: Sequence[Task], run: Run) -> list[Candidate]:
        """Return triples of threshold, rho1 and rho2, the fewest edges and the sparsest weights first."""
        edges = THRESHOLD_GRID if self.threshold is None else [self.threshold]
        if self.rho2 is not None:
            sparse = [self.rho2]
        else:
            problem = problem_of(designs_of(tasks, self.inconsistency, self.intercept), run.device)
            sparse = [share * float(problem.slope.abs().max()) / self._half for share in RHO2_SHARES]
        return list(itertools.product(edges, RHO1_GRID if self.rho1 is None else [self.rho1], sparse))

    def _fit_all(
        self, tasks: Sequence[Task], candidates: Sequence[Candidate], correlation: Array, run: Run
    ) -> list[Fitted]:
        """Return what is fitted with each candidate; each starts where the one before ended."""
        designs = designs_of(tasks, self.inconsistency, self.intercept)
        problem = problem_of(designs, run.device)
        done: dict[tuple[bytes, float, float], Fitted] = {}
        made, start = [], None
        for threshold, rho1, rho2 in candidates:
            edges = graph_edges(correlation, threshold)
            # Many a threshold draws the same edges, and without an edge rho1 weighs nothing.
            key = (edges.tobytes(), rho1 if len(edges) else 0.0, rho2)
            if key not in done:
                start = self._solve(problem, edges, rho1, rho2, tol=1e-2, max_iter=300, start=start).w
                done[key] = fitted(designs, start)
            made.append(done[key])
        return made
