"""Print what one mask for all images is worth on the CT slices of lungct: `FEWCORE_DATA=... python docs/constant_mask.py`.

For each patient the mask is the mean over the slices with a tumour of all others, cut at one threshold; the threshold is the best
on these very masks, so that the pooled Dice is what a constant can reach at most.
"""

import numpy as np

from fewcore import Run
from fewcore.builtin.folder import Folder

data = Folder(
    path="lungct/lungct_dev.zip",
    table="labels.csv",
    class_column="tumour",
    structures=("tumour",),
    image_size=48,
    grey=True,
).load(Run(0))
masks = data.targets["mask"].values[:, 0] > 0.5
shown = masks.any((1, 2))
means = {patient: masks[shown & (data.groups != patient)].mean(0) for patient in np.unique(data.groups)}
dices = []
for threshold in np.arange(0.05, 0.95, 0.05):
    same = np.stack([means[patient] > threshold for patient in data.groups])
    dices.append(2 * (same & masks).sum() / (same.sum() + masks.sum()))
print(f"{shown.sum()} of {len(masks)} slices show a tumour; Dice of one mask for all: {100 * max(dices):.1f}")
