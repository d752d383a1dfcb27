"""Makes `generative_samples`, which the tests of generative embedders share, importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
