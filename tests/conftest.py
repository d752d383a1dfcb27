"""Makes the toy components of `shapes/` importable under the names that a plugin would announce; links to libraries."""

import sys
import sysconfig
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

# `installing` and `broken`, which several test files share, and the toy components.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "shapes")]


@pytest.fixture(scope="session")
def link_libraries() -> Callable[[Path, Collection[str]], None]:
    """Fills a new folder with links to the third-party packages of this environment, except those named.

    Nothing of fewcore is among them. Editable installs are `.pth` files and finders, and these are left out too.
    """

    def link(folder: Path, without: Collection[str]) -> None:
        folder.mkdir()
        for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for path in Path(place).iterdir():
                ours = path.name.startswith(("fewcore", "_editable", "__editable", "__pycache__"))
                if not ours and path.suffix != ".pth" and path.name.partition("-")[0] not in without:
                    (folder / path.name).symlink_to(path)

    return link
