"""Print the table of the components that come with fewcore, in Markdown: `python docs/component_table.py`."""

from fewcore.kinds import KINDS
from fewcore.plugins import load_registry

OURS = {
    "fewcore",
    "fewcore-cluster",
    "fewcore-embed",
    "fewcore-graphmtl",
    "fewcore-medical",
    "fewcore-meta",
    "fewcore-propsvm",
    "fewcore-s4mtl",
    "fewcore-slurm",
    "fewcore-tracking",
}


def main() -> None:
    """Print the table."""
    print("| kind | component | what it is | source | distribution |")
    print("|---|---|---|---|---|")
    for offer in load_registry().offers:
        if offer.distribution in OURS:
            own = offer.component
            cells = [KINDS[offer.kind].label, f"`{offer.name}`", own.summary, own.paper, offer.distribution]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
