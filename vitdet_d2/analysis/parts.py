# SPDX-License-Identifier: Apache-2.0
"""The parts of a detector that work and parameters are booked on."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

BACKBONE = "backbone"
NECK = "neck"
RPN = "rpn"
BOX_HEAD = "box_head"
MASK_HEAD = "mask_head"
DENSE_HEAD = "dense_head"
OTHER = "other"

# In the order of tables, with their titles.
TITLES: Mapping[str, str] = {
    BACKBONE: "backbone",
    NECK: "neck",
    RPN: "RPN",
    BOX_HEAD: "box head",
    MASK_HEAD: "mask head",
    DENSE_HEAD: "dense head",
    OTHER: "other",
}

# What a neck calls the backbone inside it: our necks, and `FPN`.
_BODIES = ("net", "bottom_up")

# Where a parameter outside the backbone's body belongs, by the beginning of its name.
_PREFIXES = {
    "backbone.": NECK,
    "proposal_generator.": RPN,
    "roi_heads.box_": BOX_HEAD,
    "roi_heads.mask_": MASK_HEAD,
    "head.": DENSE_HEAD,
}


class BackboneOnly(nn.Module):
    """A detector without its heads."""

    def __init__(self, backbone: nn.Module) -> None:
        """Keep the backbone under the name that optimizers know.

        Args:
            backbone: with its neck.
        """
        super().__init__()
        self.backbone = backbone


def find_body(backbone: nn.Module) -> nn.Module | None:
    """Return the backbone inside a neck; None where there is no neck.

    Args:
        backbone: a detector's ``backbone``.
    """
    for name in _BODIES:
        body = getattr(backbone, name, None)
        if isinstance(body, nn.Module):
            return body
    return None


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return how many parameters each part has, frozen ones included, buffers not.

    Args:
        model: in Detectron2's format. A parameter that several modules share counts once, for the
            part that comes first.

    Returns:
        Numbers by part, of parts that have any, in the order of `TITLES`.
    """
    backbone = model.get_submodule("backbone")
    body = find_body(backbone)
    of_body = set((backbone if body is None else body).parameters())
    counts = dict.fromkeys(TITLES, 0)
    for name, parameter in model.named_parameters():
        part = next((p for start, p in _PREFIXES.items() if name.startswith(start)), OTHER)
        counts[BACKBONE if parameter in of_body else part] += parameter.numel()
    return {part: count for part, count in counts.items() if count}
