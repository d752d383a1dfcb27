"""Mutual nearest neighbours among feature vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ROWS_AT_ONCE = 2048


@torch.no_grad()
def mutual_neighbours(vectors: Tensor, n_neighbours: int) -> Tensor:
    """Return for each vector (n, e) those of its nearest others that count it among their nearest, (n, n_neighbours).

    Nearness is the cosine. Rows are int64, nearest first; -1 where a neighbour is not mutual.
    """
    unit = functional.normalize(vectors, dim=-1)
    nearest = []
    for rows in torch.split(torch.arange(len(unit), device=unit.device), ROWS_AT_ONCE):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows), device=unit.device), rows] = -torch.inf
        nearest.append(cosines.topk(n_neighbours, dim=1).indices)
    found = torch.cat(nearest)
    own = torch.arange(len(unit), device=unit.device)[:, None, None]
    mutual = (found[found] == own).any(-1)
    return found.masked_fill(~mutual, -1)
