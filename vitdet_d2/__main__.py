# SPDX-License-Identifier: Apache-2.0
"""``python -m vitdet_d2`` is ``vitdet``."""

from __future__ import annotations

import sys

from vitdet_d2.engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
