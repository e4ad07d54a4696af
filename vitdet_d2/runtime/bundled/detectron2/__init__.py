# SPDX-License-Identifier: Apache-2.0
"""The part of the Detectron2 API that vitdet_d2 needs, in pure PyTorch.

Module paths, names, arguments, state-dict keys and numerics are those of
https://github.com/facebookresearch/detectron2 at 02b5c4e; the implementation is not.
docs/compatibility.md lists what is here, what differs and what is absent.
"""

from __future__ import annotations

if __name__ != "detectron2":
    # A second copy of every class would fail isinstance checks far from here.
    raise ImportError(
        f"{__name__} must not be imported under this name: `import vitdet_d2`, then "
        "`import detectron2`",
        name=__name__,
    )

from vitdet_d2 import __version__ as _carrier_version
from vitdet_d2.runtime.absent import absent_attribute

__version__ = f"0.6+bundled.{_carrier_version}"

__getattr__ = absent_attribute(__name__)
