# SPDX-License-Identifier: Apache-2.0
"""What the rest of the package shares: processes, events, logging, files, names."""

from __future__ import annotations

from vitdet_d2.runtime.absent import absent_attribute

__getattr__ = absent_attribute(__name__)
