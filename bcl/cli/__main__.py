"""``python -m bcl.cli``."""

import sys

from bcl.cli import main

sys.exit(main())
