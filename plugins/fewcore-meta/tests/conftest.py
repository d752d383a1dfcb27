"""Makes `few_shot_samples`, from which the tests of this folder take their images and tasks, importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
