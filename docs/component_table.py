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
}

print("| kind | component | what it is | source | distribution |")
print("|---|---|---|---|---|")
for offer in load_registry().offers:
    if offer.distribution in OURS:
        component = offer.component
        print(
            f"| {KINDS[offer.kind].label} | `{offer.name}` | {component.summary} | {component.paper} | {offer.distribution} |"
        )
