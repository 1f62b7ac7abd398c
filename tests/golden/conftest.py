"""The files of this folder import one another by name, as a script and under pytest."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
