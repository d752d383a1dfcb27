"""The transformations t(x) of self-supervision, applied to a batch image by image, and their inverses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from fewcore import Array, DataError

Transformation = Literal["identity", "rotate-90", "rotate-180", "rotate-270", "flip-horizontal", "flip-vertical"]
ALL: tuple[Transformation, ...] = (
    "identity",
    "rotate-90",
    "rotate-180",
    "rotate-270",
    "flip-horizontal",
    "flip-vertical",
)
FOR_TWO: tuple[Transformation, ...] = ("identity", "flip-horizontal")
"""What two classes that share their logits with the transformations are made to mean."""

_FORTH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "rotate-90": lambda x: x.rot90(1, (2, 3)),
    "rotate-180": lambda x: x.rot90(2, (2, 3)),
    "rotate-270": lambda x: x.rot90(3, (2, 3)),
    "flip-horizontal": lambda x: x.flip(3),
    "flip-vertical": lambda x: x.flip(2),
}
_INVERSE = {"rotate-90": "rotate-270", "rotate-270": "rotate-90"}
_TURNS_SIDES = ("rotate-90", "rotate-270")


def _apply(x: torch.Tensor, names: list[str]) -> torch.Tensor:
    rows = {name: np.flatnonzero(np.array(names) == name) for name in dict.fromkeys(names)}
    parts = [_FORTH[name](x[torch.as_tensor(own, device=x.device)]) for name, own in rows.items()]
    back = np.argsort(np.concatenate(list(rows.values())))
    return torch.cat(parts)[torch.as_tensor(back, device=x.device)]


def transformed(x: torch.Tensor, kinds: tuple[Transformation, ...], chosen: Array) -> torch.Tensor:
    """Return images or masks x (n, c, h, w), the i-th changed as `kinds[chosen[i]]` says; h = w where sides are turned."""
    return _apply(x, [kinds[number] for number in chosen])


def restored(x: torch.Tensor, kinds: tuple[Transformation, ...], chosen: Array) -> torch.Tensor:
    """Return what `transformed` would have made x of: each image is changed back."""
    names = [kinds[number] for number in chosen]
    return _apply(x, [_INVERSE.get(name, name) for name in names])


def check_sides(kinds: tuple[Transformation, ...], size: tuple[int, ...], who: str) -> None:
    """Refuse quarter turns of images that are not square.

    Raises:
        DataError: naming the images' size and the transformations that remain.

    """
    turning = [kind for kind in kinds if kind in _TURNS_SIDES]
    if turning and size[0] != size[1]:
        rest = ", ".join(kind for kind in ALL if kind not in _TURNS_SIDES)
        raise DataError(
            f"{who}: found {turning[0]} among the transformations of images {size[0]} x {size[1]}; expected square images"
            f" (type transformations: [{rest}])"
        )


def for_classes(n_classes: int, who: str) -> tuple[Transformation, ...]:
    """Return as many transformations as there are classes, for the reading in which both share their logits.

    Raises:
        DataError: there are more classes than transformations.

    """
    if n_classes > len(ALL):
        raise DataError(
            f"{who}: found {n_classes} classes for {len(ALL)} transformations; expected at most {len(ALL)} where they share"
            " logits (type self_supervision: separate_head)"
        )
    return FOR_TWO if n_classes == len(FOR_TWO) else ALL[:n_classes]
