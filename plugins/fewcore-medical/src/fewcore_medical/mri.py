"""Magnetic resonance volumes made comparable: a bias field taken away, noise smoothed but not edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK

from fewcore import Array

ITK: Any = SimpleITK


def without_bias(
    values: Array, spacing: tuple[float, float, float], shrink: int, levels: int, iterations: int
) -> Array:
    """Return a volume (d, h, w) divided by its bias field, as N4 finds it in a volume `shrink` times smaller.

    The field is fitted where the volume is brighter than Otsu's threshold; values below 0 count as 0. `iterations` are
    those of each of `levels` levels of ever finer splines.

    Source: N. J. Tustison and others: N4ITK: Improved N3 Bias Correction, IEEE Transactions on Medical Imaging 29,
    2010, doi:10.1109/TMI.2010.2046908.
    """
    image = ITK.GetImageFromArray(np.maximum(values, 0).astype(np.float32))
    image.SetSpacing(spacing[::-1])
    mask = ITK.OtsuThreshold(image, 0, 1, 200)
    # A thin volume is shrunk less along its short axes: splines need some voxels.
    factors = [max(1, min(shrink, side // 4)) for side in image.GetSize()]
    n4 = ITK.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([iterations] * levels)
    n4.SetNumberOfThreads(1)
    n4.Execute(ITK.Shrink(image, factors), ITK.Shrink(mask, factors))
    field = ITK.GetArrayFromImage(ITK.Exp(n4.GetLogBiasFieldAsImage(image)))
    return np.asarray(ITK.GetArrayFromImage(image) / field)


def smoothed(values: Array, iterations: int, conductance: float, time_step: float) -> Array:
    """Return a volume (d, h, w) after curvature anisotropic diffusion, in voxels.

    Source: R. T. Whitaker, X. Xue: Variable-conductance, level-set curvature for image denoising, ICIP 2001,
    doi:10.1109/ICIP.2001.958071; as in ITK.
    """
    image = ITK.GetImageFromArray(values.astype(np.float32))
    diffusion = ITK.CurvatureAnisotropicDiffusionImageFilter()
    diffusion.SetNumberOfIterations(iterations)
    diffusion.SetConductanceParameter(conductance)
    diffusion.SetTimeStep(time_step)
    diffusion.SetNumberOfThreads(1)
    return np.asarray(ITK.GetArrayFromImage(diffusion.Execute(image)))
