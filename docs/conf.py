"""Settings of Sphinx: `tox run -e docs` builds the pages into docs/_build/html."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import component_pages  # noqa: E402

from fewcore import __version__  # noqa: E402

project = "fewcore"
author = "the authors of fewcore"
version = release = __version__

extensions = ["myst_parser", "sphinx_click"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "results"]
html_theme = "furo"
html_title = f"fewcore {version}"
html_show_copyright = False

component_pages.write(HERE / "components")
