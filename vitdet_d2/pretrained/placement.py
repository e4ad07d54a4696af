# SPDX-License-Identifier: Apache-2.0
"""An encoder that was checked against a backbone, and fitted to it."""

from __future__ import annotations

from dataclasses import dataclass

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.choices import Choices
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.fitted import Fitted
from vitdet_d2.pretrained.identity import Identity
from vitdet_d2.pretrained.refusals import misshaped, too_few
from vitdet_d2.pretrained.report import summarise

# Below this share of a backbone's tensors the file belongs to another model.
MIN_BACKBONE_SHARE = 0.95


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What `load` does with an encoder.

    Attributes:
        encoder: with all that is known of it now.
        fitted: its tensors, by the backbone's names.
        identity: what it is.
        notes: what the user should know.
        alerts: what the user should look at.
    """

    encoder: Encoder
    fitted: Fitted
    identity: Identity
    notes: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()


def check_fitted(
    path: str,
    encoder: Encoder,
    fitted: Fitted,
    theirs: Identity,
    ours: Identity,
    choices: Choices,
) -> None:
    """Refuse weights of another backbone.

    Args:
        path: of the file, for messages.
        encoder: from the file.
        fitted: what became of it.
        theirs: what it is.
        ours: what the model is.
        choices: of the user.

    Raises:
        WeightsError: tensors are missing, misshaped, or without a place in the model.
    """
    if fitted.unexpected:
        raise WeightsError(
            f"{path}: {encoder.source.title}: without a place in the model: "
            f"{summarise(fitted.unexpected)}, for example {', '.join(fitted.unexpected[:3])}; take "
            "a model that has them"
        )
    if choices.allow_partial:
        return
    if fitted.mismatched:
        raise WeightsError(misshaped(path, fitted.mismatched, theirs, ours))
    given = len(fitted.from_file)
    total = given + len(fitted.missing)
    if given < MIN_BACKBONE_SHARE * total:
        share, may_be = given / total, not choices.strict_heads
        raise WeightsError(
            too_few(path, share, fitted.missing, theirs, ours, may_be_partial=may_be)
        )
