"""Print the table of a run in Markdown, beside the paper's numbers: `python docs/result_table.py docs/results/omniglot-cpu`."""

import json
import sys
from pathlib import Path

from fewcore import yaml12
from fewcore.reporting import published_rows

folder = Path(sys.argv[1])
rows = [row for row in json.loads((folder / "metrics.json").read_text())["rows"] if row["metric"] == "accuracy"]
spec = yaml12.read((folder / "pipeline.yaml").read_text()).data
paper = (
    {(r["stage"], r["way"], r["shot"]): r for r in published_rows(spec.get("published"))["rows"]}
    if spec.get("published")
    else {}
)
columns = sorted({(row["way"], row["shot"]) for row in rows})

print("| stage | " + " | ".join(f"{way}-way {shot}-shot" for way, shot in columns) + " | batch norm | seen |")
print("|---|" + "---|" * (len(columns) + 2))
for stage in dict.fromkeys(row["stage"] for row in rows):
    own = {(row["way"], row["shot"]): row for row in rows if row["stage"] == stage}
    cells = []
    for column in columns:
        row = own[column]
        half = (row["ci95"][1] - row["ci95"][0]) / 2
        text = f"{100 * row['value']:.1f} ± {100 * half:.1f}"
        if theirs := paper.get((stage, *column)):
            text += f" ({100 * theirs['value']:.1f})"
        cells.append(text)
    first = next(iter(own.values()))
    print(f"| {stage} | " + " | ".join(cells) + f" | {first['norm']} | {first['seen']} |")
