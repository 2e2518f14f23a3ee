"""Run the command line: python -m kuwa_min."""

import sys

from .cli import main

sys.exit(main())
