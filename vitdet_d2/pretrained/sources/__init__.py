# SPDX-License-Identifier: Apache-2.0
"""The sources of pre-trained encoders, in the order in which files are compared with them."""

from __future__ import annotations

from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.hugging_face import HUGGING_FACE
from vitdet_d2.pretrained.sources.mae import MAE
from vitdet_d2.pretrained.sources.plain import PLAIN

# Most specific first: the first whose keys match decides.
SOURCES: tuple[Source, ...] = (MAE, *HUGGING_FACE, PLAIN)
