"""`python -m faregate` is `faregate`."""

from __future__ import annotations

import sys

from faregate.cli import main

if __name__ == "__main__":
    sys.exit(main())
