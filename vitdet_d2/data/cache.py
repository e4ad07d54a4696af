# SPDX-License-Identifier: Apache-2.0
"""Where data that can be made again is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(part: str) -> Path:
    """Folder of one kind of cached data, which need not exist yet.

    Args:
        part: what is kept there, for example ``digits``.

    Returns:
        ``$VITDET_D2_CACHE/PART``, or ``~/.cache/vitdet_d2/PART`` where that is not set.
    """
    cache = os.environ.get("VITDET_D2_CACHE") or "~/.cache/vitdet_d2"
    return Path(cache).expanduser() / part
