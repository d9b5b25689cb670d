"""The command line as `python -m vitgan`."""

import sys

from vitgan.cli import main

sys.exit(main())
