"""Print the tables of a run in Markdown, beside the paper's numbers.

`python docs/result_table.py FOLDER [--pairs STAGE] [--only KEY=VALUE] [--metrics A,B]`: with `--pairs` also the paired
comparisons of a stage with all others, with `--only` the rows of one condition, with `--metrics` some columns alone. What a matrix varies stands beside the stage's name.
"""

import argparse
import json
from pathlib import Path

from fewcore import yaml12
from fewcore.reports.reporting import published_rows

NOT_CONDITIONS = {
    "metric",
    "value",
    "ci95",
    "n",
    "stage",
    "method",
    "split",
    "norm",
    "seen",
    "note",
    "fold",
    "seed",
    "splits.seed",
    "evaluator",
}
DIGITS = {"mae": 3, "average_hausdorff": 1, "row_hausdorff": 1}
"""Digits of what is no share."""

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--pairs", default="")
parser.add_argument("--only", default="")
parser.add_argument("--metrics", default="")
arguments = parser.parse_args()
made = json.loads((arguments.folder / "metrics.json").read_text())
spec = yaml12.read((arguments.folder / "pipeline.yaml").read_text()).data
paper = published_rows(spec.get("published")).get("rows", [])


def scale(metric):
    return 1 if metric in DIGITS else 100


def number(metric, value):
    return f"{scale(metric) * value:.{DIGITS.get(metric, 1)}f}"


def column_of(row):
    return row["metric"], *((k, v) for k, v in row.items() if k not in NOT_CONDITIONS | {only} and "." not in k)


def name_of(row):
    stage = f"stages.{row['stage']}"
    axes = [f"{k.rsplit('.', 1)[-1]} {v}" for k, v in row.items() if "." in k and k not in NOT_CONDITIONS | {stage}]
    return ", ".join([str(row.get(stage, row["stage"])), *axes])


def head(column):
    metric, *conditions = column
    named = dict(conditions)
    if "way" in named:
        return f"{named['way']}-way {named['shot']}-shot"
    return " ".join([metric.replace("_", " "), *(f"{k.rsplit('.', 1)[-1]} {v}" for k, v in conditions)])


def published(row):
    for theirs in paper:
        if all(str(row.get(k)) == str(v) for k, v in theirs.items() if k not in {"label", "value", "ci95"}):
            return theirs
    return None


def result(row):
    metric = row["metric"]
    half = (row["ci95"][1] - row["ci95"][0]) / 2
    text = number(metric, row["value"]) + ("" if half != half else f" ± {number(metric, half)}")
    theirs = published(row)
    return text + (f" ({number(metric, theirs['value'])})" if theirs else "")


only, _, wanted = arguments.only.partition("=")
rows = [row for row in made["rows"] if not only or str(row.get(only)) == wanted]
rows = [row for row in rows if not arguments.metrics or row["metric"] in arguments.metrics.split(",")]
columns = list(dict.fromkeys(column_of(row) for row in rows))
norms = {row["norm"] for row in rows} != {"none"}
print("| stage | " + " | ".join(map(head, columns)) + (" | batch norm" if norms else "") + " | seen |")
print("|---|" + "---|" * (len(columns) + 1 + norms))
for name in dict.fromkeys(map(name_of, rows)):
    own = {column_of(row): row for row in rows if name_of(row) == name}
    first = next(iter(own.values()))
    cells = [result(own[column]) if column in own else "" for column in columns]
    cells += [first["norm"]] if norms else []
    print(f"| {name} | " + " | ".join(cells) + f" | {first['seen']} |")

if arguments.pairs:
    print("\n| pair | what | difference | 95% interval | test | p (Holm) |\n|---|---|---|---|---|---|")
    for pair in made["comparisons"]:
        if arguments.pairs not in (pair["first"], pair["second"]):
            continue
        sign = 1 if pair["first"] == arguments.pairs else -1
        other = pair["second"] if sign == 1 else pair["first"]
        low, high = sorted(sign * end * scale(pair["metric"]) for end in pair["ci95"])
        if only and str(pair.get(only)) != wanted:
            continue
        what = head((pair["metric"], *((k, pair[k]) for k in ("way", "shot") if k in pair)))
        digits = DIGITS.get(pair["metric"], 1)
        difference = sign * pair["difference"] * scale(pair["metric"])
        interval = f"[{low:.{digits}f}, {high:.{digits}f}]"
        tested = f"{pair['test']} | {pair['p_holm']:.2g}"
        print(f"| {arguments.pairs} - {other} | {what} | {difference:+.{digits}f} | {interval} | {tested} |")
