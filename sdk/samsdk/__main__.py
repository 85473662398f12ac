"""`python -m samsdk`: the same program as `samsdk`."""

import sys

from samsdk.cli import main

sys.exit(main())
