"""The table of breast MRI: which T1 and which subtraction volume, of which patient, and what was found in each breast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fewcore import Problem
from fewcore_medical.breast_finding import SIDES
from fewcore_medical.label_table import WrongCell, path_inside, table_rows

FINDINGS = ("none", "benign", "malignant")
SPLITS = ("train", "validation", "test")
PHASES = ("t1", "subtraction")
NEEDED = ("patient", *PHASES, *SIDES)
ADVICE = "a CSV file with the columns patient, t1, subtraction, right and left, and perhaps split"


@dataclass(frozen=True, eq=False)
class Study:
    """One examination: its volumes, its patient, her split ("" where the table has none), the findings by side.

    A breast without a finding is left out. `where` names the row in messages, by its line alone.
    """

    t1: Path = field(repr=False)
    subtraction: Path = field(repr=False)
    patient: str = field(repr=False)
    split: str
    findings: dict[str, int]
    where: str


def read_studies(table: Path, folder: Path) -> tuple[list[Study], list[Problem]]:
    """Return the studies of a table whose files lie in `folder`, and everything that is wrong with its lines and splits.

    Raises:
        DataError: there is no table that can be read, it lacks columns, or has no lines.

    """
    rows = table_rows(table, NEEDED, ADVICE)
    studies: list[Study] = []
    problems: list[Problem] = []
    file_of: dict[Path, str] = {}
    split_of: dict[str, tuple[str, str]] = {}
    for line, said in rows:
        where = f"{table.name} line {line}"
        study, wrong = _study(said, folder, where)
        problems += wrong
        if said["patient"]:
            known, first = split_of.setdefault(said["patient"], (said.get("split", ""), where))
            if known != said.get("split", ""):
                found = f"a patient who is in another split in {first}"
                problems.append(
                    Problem(where, found, "one split a patient", "her breasts and examinations stay together")
                )
        if study is None:
            continue
        for phase, path in ((phase, getattr(study, phase)) for phase in PHASES):
            if path in file_of:
                problems.append(Problem(where, f"the {phase} of {file_of[path]} again", "each file once"))
            file_of.setdefault(path, where)
        studies.append(study)
    return studies, problems + _empty_splits(rows, table.name)


def _study(said: dict[str, str], folder: Path, where: str) -> tuple[Study | None, list[Problem]]:
    """Return the study of a line, or None and what is wrong with the line."""
    wrong: list[Problem] = []
    paths: dict[str, Path] = {}
    if "" in said:
        return None, [Problem(where, "more values than columns", "as many")]
    if not said["patient"]:
        wrong.append(Problem(where, "no patient", "a name or number that is the same in all lines of a patient"))
    for phase in PHASES:
        try:
            paths[phase] = path_inside(folder, said[phase])
        except WrongCell as error:
            found = f"{phase}: {error.found}" if said[phase] else f"no {phase}"
            expected = error.expected if said[phase] else "the volumes of both, subtraction and t1"
            wrong.append(Problem(where, found, expected))
    if said.get("split", SPLITS[0]) not in SPLITS:
        wrong.append(Problem(where, "an unknown split", f"one of {', '.join(SPLITS)}"))
    findings = {}
    for side in SIDES:
        if said[side].lower() in FINDINGS:
            findings[side] = FINDINGS.index(said[side].lower())
        elif said[side]:
            wrong.append(
                Problem(where, f"an unknown finding under {side}", f"one of {', '.join(FINDINGS)}, or nothing")
            )
    if not said["right"] and not said["left"]:
        wrong.append(Problem(where, "no finding", "one for the right or the left breast"))
    if wrong:
        return None, wrong
    return Study(paths["t1"], paths["subtraction"], said["patient"], said.get("split", ""), findings, where), []


def _empty_splits(rows: list[tuple[int, dict[str, str]]], name: str) -> list[Problem]:
    """Return the splits, or the whole table where it has none, in which all breasts, or none, are malignant."""
    problems = []
    of_split: dict[str, list[bool]] = {}
    for _, said in rows:
        split = said.get("split", "the table")
        found = [said[side].lower() == "malignant" for side in SIDES if said[side]]
        if split in (*SPLITS, "the table"):
            of_split.setdefault(split, []).extend(found)
    for split, malignant in of_split.items():
        if len(set(malignant)) < 2:
            what = "no breast with a malignant finding" if not any(malignant) else "only malignant breasts"
            problems.append(Problem(f"{name}, {split}", what, "breasts of both kinds, or there is no AUC"))
    return problems
