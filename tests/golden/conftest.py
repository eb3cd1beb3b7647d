"""The modules of the golden check, which is a script, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
