"""What the training of generative adversarial networks shares: a watch for collapse, and batch norm's last statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewcore import NumericalError

WON = 1e-3
"""A discriminator whose cross-entropy is below this has won: its odds are a thousand to one."""
ALIKE = 1e-3
"""Generated pictures whose variance is below this share of the data's are all alike."""
CHECK_EVERY = 25


def telling_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return 1/2 [BCE(real, 1) + BCE(fake, 0)] of the logits of pairs from the data and generated ones, each (n,)."""
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


class CollapseWatch:
    """Counts the steps in a row in which the discriminator has won, or generated pictures are all alike.

    The counts stay on the device and are read every 25 steps. They are part of a checkpoint.
    """

    def __init__(self, method: str, patience: int, device: torch.device) -> None:
        self.method, self.patience = method, patience
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)

    @torch.no_grad()
    def observe(self, step: int, telling: torch.Tensor, made: torch.Tensor, x: torch.Tensor) -> None:
        """Count step `step` with its `telling_loss`, generated pictures and those of the data, (n, c, h, w).

        Raises:
            NumericalError: one of the two has lasted `patience` steps.

        """
        alike = made.var(0).mean() < ALIKE * x.var(0).mean()
        self.counts = (self.counts + 1) * torch.stack([telling.detach() < WON, alike])
        if (step + 1) % CHECK_EVERY:
            return
        won, same = self.counts.tolist()
        if won >= self.patience:
            raise NumericalError(
                f"{self.method}: at step {step} the discriminator's loss has been below {WON:g} for {won} steps: the "
                "generator learns nothing from it any more; expected two sides of equal strength (lower learning_rate, "
                "train fewer steps, give more images, or raise patience)"
            )
        if same >= self.patience:
            raise NumericalError(
                f"{self.method}: at step {step} the generated pictures have been all alike for {same} steps, their "
                f"variance less than {ALIKE:g} of the data's; expected as many sorts as there are in the data (lower "
                "learning_rate, try another seed, or raise patience)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, for a checkpoint."""
        return {"counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the counts of a checkpoint."""
        self.counts.copy_(state["counts"])


@torch.no_grad()
def take_population_statistics(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set batch norm's statistics to the means, over batches, of each batch's mean and unbiased variance; then the network
    is left in evaluation mode.
    """
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None
    network.train()
    for x in batches:
        network(x)
    network.eval()
