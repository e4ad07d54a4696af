# SPDX-License-Identifier: Apache-2.0
"""Progress bars on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Return a bar on standard error.

    Args:
        iterable: what it counts; None: its owner calls ``update``.
        options: of tqdm.
    """
    with contextlib.suppress(OSError, ValueError):  # not a terminal
        if 0 in os.get_terminal_size(sys.stderr.fileno()):
            # One that does not tell its size, as containers have it: tqdm would draw nothing.
            return tqdm(iterable, file=sys.stderr, ncols=80, nrows=24, **options)
    return tqdm(iterable, file=sys.stderr, dynamic_ncols=True, **options)
