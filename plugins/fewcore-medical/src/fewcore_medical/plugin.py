"""Announces the components. Imported at every start, so nothing heavy is imported here."""

from __future__ import annotations

from fewcore import Component, hookimpl


@hookimpl
def fewcore_backbones() -> list[Component]:
    """Offer the backbones."""
    here = "fewcore_medical"
    return [
        Component(
            "densenet",
            f"{here}.densenet:DenseNet",
            "a narrow DenseNet for images and volumes of any size",
            "arXiv:1608.06993",
        ),
        Component(
            "monai", f"{here}.monai_backbone:Monai", "the 2-D and 3-D networks of MONAI, by name", "arXiv:2211.02701"
        ),
    ]


@hookimpl
def fewcore_datasets() -> list[Component]:
    """Offer the data sets."""
    return [
        Component(
            "lidc",
            "fewcore_medical.lidc:Lidc",
            "lung nodules of LIDC-IDRI with the ratings of up to four radiologists",
            "doi:10.1118/1.3528204",
        ),
        Component(
            "ipmn",
            "fewcore_medical.ipmn:Ipmn",
            "your own T2 volumes of the pancreas with a table of labels",
            "arXiv:1801.03230",
        ),
        Component(
            "breast-mri",
            "fewcore_medical.breast_mri:BreastMri",
            "your own breast MRI, subtraction volumes cut into right and left breasts, with a table of findings",
            "arXiv:1907.07816",
        ),
        Component(
            "montgomery",
            "fewcore_medical.montgomery:Montgomery",
            "138 chest radiographs, normal or with tuberculosis, with masks of the lungs",
            "doi:10.3978/j.issn.2223-4292.2014.11.20",
        ),
        Component(
            "shenzhen",
            "fewcore_medical.shenzhen:Shenzhen",
            "662 chest radiographs, normal or with tuberculosis, with masks of the lungs of most",
            "doi:10.3978/j.issn.2223-4292.2014.11.20",
        ),
        Component(
            "jsrt",
            "fewcore_medical.jsrt:Jsrt",
            "247 chest radiographs, with a lung nodule or without, with masks of the lungs",
            "doi:10.2214/ajr.174.1.1740071",
        ),
        Component(
            "chest",
            "fewcore_medical.chest:Chest",
            "912 chest radiographs of Montgomery, Shenzhen and JSRT: normal, tuberculosis or nodule",
            "arXiv:2005.02523",
        ),
        Component(
            "phantom-chest",
            "fewcore_medical.phantom_chest:PhantomChest",
            "phantoms of chest radiographs in three classes, with exact masks of the lungs, made from a seed",
            "arXiv:2005.02523",
        ),
        Component(
            "phantom-breast",
            "fewcore_medical.phantom_breast:PhantomBreast",
            "phantoms of breast MRI: subtraction volumes without finding, benign or malignant, made from a seed",
            "arXiv:1907.07816",
        ),
    ]


@hookimpl
def fewcore_embedders() -> list[Component]:
    """Offer the embedders."""
    return [
        Component(
            "shape",
            "fewcore_medical.shape:Shape",
            "size, elongation, roundness and roughness of a mask",
            "doi:10.1148/radiol.2020191145",
        )
    ]


@hookimpl
def fewcore_evaluators() -> list[Component]:
    """Offer the evaluators."""
    target = "fewcore_medical.segmentation:Segmentation"
    return [
        Component("segmentation", target, "overlap and distance of masks, with tests and figures", "arXiv:2005.02523")
    ]
