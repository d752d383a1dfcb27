"""Pages of the components that come with fewcore, a page a kind, made from their descriptions: `conf.py` calls `write`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from component_table import OURS

from fewcore.describe import describe_offer
from fewcore.kinds import KINDS
from fewcore.plugins import load_registry

CONTINUED = re.compile(r"\n {8,}")
RAISED = re.compile(r"(?m)^    (\w+): ")


def write(folder: Path) -> None:
    """Write the pages into a folder, in place of those that were there."""
    folder.mkdir(exist_ok=True)
    for page in folder.glob("*.md"):
        page.unlink()
    offers = [offer for offer in load_registry().offers if offer.distribution in OURS]
    for kind in KINDS.values():
        own = [describe_offer(offer) for offer in offers if offer.kind == kind.name]
        title = f"{kind.label[0].upper()}{kind.label[1:]}s"
        (folder / f"{kind.label}s.md").write_text(f"# {title}\n\n" + "\n".join(map(_section, own)), encoding="utf-8")


def _section(found: dict[str, Any]) -> str:
    asks = ", ".join(f"`{p['name']}`" + (" (where `from:` says so)" if p["optional"] else "") for p in found["inputs"])
    labels = "reads those that are known" if found["needs_labels"] else "hidden from it"
    facts = (
        f"From `{found['distribution']}`. Asks for: {asks or 'nothing'}. Makes: `{found['makes']}`. Labels: {labels}."
    )
    usage = f"```yaml\nstage: {found['usage']}\n```"
    if not found["is_stage"]:
        facts = f"From `{found['distribution']}`."
        usage = f"```console\nfewcore run PIPELINE {found['usage']}\n```"
    return "\n\n".join([f"## {found['name']}", facts, usage, _text(found["text"]), _options(found["options"])]) + "\n"


def _text(text: str) -> str:
    """Return a docstring as Markdown: what it raises as a list."""
    before, _, raises = text.partition("Raises:\n")
    if not raises:
        return before
    raised = RAISED.sub(r"- `\1`: ", CONTINUED.sub(" ", raises.rstrip()))
    return f"{before}**Raises**\n\n{raised}"


def _options(options: list[dict[str, Any]]) -> str:
    if not options:
        return "It has no options."
    lines = ["| option | type | default | meaning | paper |", "|---|---|---|---|---|"]
    for option in options:
        default = "required" if option["required"] else f"`{json.dumps(option['default'])}`"
        bounds = [f"{sign} {option[end]}" for end, sign in (("low", ">="), ("high", "<=")) if option[end] is not None]
        unit = [option["unit"]] if option["unit"] else []
        meaning = f"{option['meaning']} ({'; '.join(unit + bounds)})" if unit + bounds else option["meaning"]
        cells = [f"`{option['name']}`", option["type"], default, meaning, option["paper"]]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
