"""Files that hold a network and need no fewcore: ONNX, TorchScript and the archives of torch.export, written and run."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewcore.contracts import Arrays
from fewcore.errors import PipelineError, PluginError, Problem

INPUT = "pixels"
"""The name of the one input: (n, c, h, w) or (n, c, d, h, w) float32."""
DESCRIPTION = "fewcore.json"
"""Under this name the description lies in TorchScript files and archives; in ONNX files it is the metadata `fewcore`."""

Call = Callable[[Tensor], Arrays]
"""Runs a file: from pixels to its outputs by name."""


@dataclass(frozen=True)
class Format:
    """One kind of file. `write(network, pixels, description, path)` writes a network whose result is a dict; `opened` runs it."""

    name: str
    write: Callable[[nn.Module, Tensor, str, Path], None]
    opened: Callable[[Path], Call]
    libraries: tuple[str, ...] = ()


def format_of(path: Path) -> Format:
    """Return the format that the end of a file's name says.

    Raises:
        PipelineError: it says none.
        PluginError: libraries are missing; the message says what to install.

    """
    known = ", ".join(f"{suffix} ({one.name})" for suffix, one in FORMATS.items())
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        ending = f"'{path.suffix}'" if path.suffix else "no ending"
        raise PipelineError(Problem(str(path), ending, f"one of {known}", "type --out FILE.onnx"))
    missing = [name for name in found.libraries if importlib.util.find_spec(name) is None]
    if missing:
        needed = f"{found.name}: found no {', '.join(missing)}; expected what writes and checks such files"
        raise PluginError(f"{needed} (type pip install 'fewcore[export]', or --out FILE.ts)")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says of its own old and new ways of writing networks: what is written is run and compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _traced_program(network: nn.Module, pixels: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(network, (pixels,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def _write_onnx(network: nn.Module, pixels: Tensor, description: str, path: Path) -> None:
    program: Any = torch.onnx.export(
        _traced_program(network, pixels),
        input_names=[INPUT],
        output_names=list(network(pixels)),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props["fewcore"] = description
    # Weights lie in the one file, not beside it.
    program.save(str(path), external_data=False)


def _open_onnx(path: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(names, {INPUT: pixels.numpy()}), strict=True))


def _write_torchscript(network: nn.Module, pixels: Tensor, description: str, path: Path) -> None:
    # strict=False: the result is a dict.
    traced: Any = torch.jit.trace(network, (pixels,), strict=False, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, path, _extra_files={DESCRIPTION: description})


def _open_torchscript(path: Path) -> Call:
    return _called(torch.jit.load(path))  # type: ignore[no-untyped-call]


def _write_archive(network: nn.Module, pixels: Tensor, description: str, path: Path) -> None:
    torch.export.save(_traced_program(network, pixels), path, extra_files={DESCRIPTION: description})


def _open_archive(path: Path) -> Call:
    return _called(torch.export.load(path).module())


def _called(network: Callable[[Tensor], Mapping[str, Tensor]]) -> Call:
    def call(pixels: Tensor) -> Arrays:
        with torch.no_grad():
            return {name: values.numpy() for name, values in network(pixels).items()}

    return call


FORMATS = {
    ".onnx": Format("ONNX", _write_onnx, _open_onnx, ("onnx", "onnxscript", "onnxruntime")),
    ".ts": Format("TorchScript", _write_torchscript, _open_torchscript),
    ".pt2": Format("torch.export", _write_archive, _open_archive),
}


def written_and_opened(how: Format, network: nn.Module, pixels: Tensor, description: str, path: Path) -> Call:
    """Write a network as a file, and return what runs the file. `pixels` (n, ...), n at least 2, are an example.

    Raises:
        PluginError: the network does something that such a file cannot hold.

    """
    try:
        with _quiet(), torch.no_grad():
            how.write(network, pixels, description, path)
            return how.opened(path)
    # torch and onnxruntime raise nearly anything.
    except Exception as error:
        said = str(error).strip().partition("\n")[0][:200]
        others = " or ".join(suffix for suffix, other in FORMATS.items() if other is not how)
        found = f"a network that {how.name} cannot hold ({type(error).__name__}: {said})"
        raise PluginError(Problem("export", found, "plain operations of torch", f"try {others}")) from error
