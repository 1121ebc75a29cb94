"""`python -m r1mega`."""

import sys

from r1mega.cli import main

sys.exit(main())
