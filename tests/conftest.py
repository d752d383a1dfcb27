"""Makes the toy components of `shapes/` importable under the names that a plugin would announce."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "shapes"))
