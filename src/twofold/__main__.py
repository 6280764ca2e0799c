"""`python -m twofold` is the command line."""

import sys

from twofold.cli import main

sys.exit(main())
