from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fewcore import checkpoint


def test_layout_in_memory_survives(tmp_path: Path) -> None:
    values = torch.arange(24.0).reshape(2, 3, 2, 2)
    tensors = {
        "plain": values,
        "channels last": values.contiguous(memory_format=torch.channels_last),
        "transposed": torch.arange(6).reshape(2, 3).t(),
        "number": torch.tensor(1.5),
    }
    checkpoint.save(tmp_path / "x.checkpoint", tensors)
    loaded = checkpoint.load(tmp_path / "x.checkpoint")
    assert loaded is not None
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor), name
        assert loaded[name].stride() == tensor.stride(), name


def test_a_fused_optimiser_goes_on_with_networks_in_channels_last(tmp_path: Path) -> None:
    """A fused step pairs weights and moments by their place in memory, so moments of another layout would be mixed up."""

    def fresh() -> tuple[nn.Conv2d, torch.optim.Adam]:
        layer = nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
        layer = layer.to(memory_format=torch.channels_last)
        return layer, torch.optim.Adam(layer.parameters(), 0.1, fused=True)

    def step(layer: nn.Conv2d, adam: torch.optim.Adam, number: int) -> None:
        adam.zero_grad()
        x = torch.linspace(0, 1 + number, 2 * 3 * 25).reshape(2, 3, 5, 5)
        layer(x).square().sum().backward()
        adam.step()

    layer, adam = fresh()
    step(layer, adam, 0)
    checkpoint.save(tmp_path / "x.checkpoint", {"layer": layer.state_dict(), "adam": adam.state_dict()})
    step(layer, adam, 1)
    again, again_adam = fresh()
    loaded = checkpoint.load(tmp_path / "x.checkpoint")
    assert loaded is not None
    again.load_state_dict(loaded["layer"])
    again_adam.load_state_dict(loaded["adam"])
    step(again, again_adam, 1)
    assert torch.equal(again.weight, layer.weight)


def test_a_damaged_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.checkpoint"
    checkpoint.save(path, {"done": 3})
    whole = path.read_bytes()
    assert checkpoint.load(path) == {"done": 3}
    for broken in (whole[:-1], whole[:10], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(broken)
        assert checkpoint.load(path) is None
    assert checkpoint.load(tmp_path / "missing.checkpoint") is None


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a checkpoint cannot hold object; expected tensors, arrays, numbers"):
        checkpoint.save(tmp_path / "x.checkpoint", {"thing": object()})
    assert not list(tmp_path.iterdir())
