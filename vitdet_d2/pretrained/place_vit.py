# SPDX-License-Identifier: Apache-2.0
"""Encoders of plain ViTs on their way into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor, nn

from vitdet_d2.pretrained.choices import Choices
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.fit import fit, lost_positions
from vitdet_d2.pretrained.identity import Identity, identify
from vitdet_d2.pretrained.needs import check_needs
from vitdet_d2.pretrained.placement import Placement, check_fitted
from vitdet_d2.pretrained.plain_trunk import PlainTrunk
from vitdet_d2.pretrained.refusals import check_size
from vitdet_d2.pretrained.traits import traits_of
from vitdet_d2.pretrained.untold import complete


def place_vit(
    path: str,
    file: Unwrapped,
    encoder: Encoder,
    vit: nn.Module,
    names: Mapping[str, Tensor],
    ours: Identity,
    choices: Choices,
) -> Placement:
    """Check an encoder against a ViT, and fit it.

    Args:
        path: of the file, for messages.
        file: unwrapped.
        encoder: from the file.
        vit: that takes it.
        names: its state dict.
        ours: what the model is, whose part it is.
        choices: of the user.

    Raises:
        WeightsError: it does not fit.
    """
    traits = traits_of(vit)
    trunk = PlainTrunk(width=encoder.width, depth=encoder.depth, patch=encoder.patch_size)
    theirs = dataclasses.replace(identify(file.state), trunk=trunk)
    encoder, alerts = complete(path, file, encoder, vit, names, choices.source)
    check_size(path, theirs, ours, allow_partial=choices.allow_partial)
    notes = check_needs(
        path, encoder, names, traits, keep_layer_scale=choices.layer_scale == "keep"
    )
    fitted = fit(
        path, encoder, names, has_class_position=traits.has_class_position,
        layer_scale=choices.layer_scale, patch_resize=choices.patch_resize,
        position_grid=choices.position_grid, absent_positions=choices.absent_positions,
    )  # fmt: skip
    check_fitted(path, encoder, fitted, theirs, ours, choices)
    lost = lost_positions(encoder, names, traits.has_class_position)
    return Placement(
        encoder=encoder, fitted=fitted, identity=theirs, notes=notes,
        alerts=(*alerts, *filter(None, [lost])),
    )  # fmt: skip
