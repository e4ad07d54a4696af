# SPDX-License-Identifier: Apache-2.0
"""The pair that another study chose, for stage 3."""

from __future__ import annotations

import json
from pathlib import Path

from vitdet_d2.errors import RecipeError
from vitdet_d2.tuning.protocol import Protocol, stages
from vitdet_d2.tuning.records import read_outcomes, read_records
from vitdet_d2.tuning.storage import folder_url, load_study
from vitdet_d2.tuning.study import SETTINGS


def read_pair(source: str, name: str | None = None) -> tuple[float, float]:
    """Return learning rate and weight decay that stage 1 of a study chose.

    Args:
        source: folder of the study, or address of its storage.
        name: of the study, where the storage has several.

    Raises:
        RecipeError: there is no such study, or its stage 1 is not through.
        UserError: its storage cannot be used.
    """
    url = source if "://" in source else folder_url(Path(source).expanduser())
    study = load_study(url, name)
    attributes = study.user_attrs
    if SETTINGS not in attributes:
        raise RecipeError(f"--from {source}: {study.study_name} is no study of `vitdet tune`")
    protocol = Protocol.from_description(json.loads(attributes[SETTINGS])["protocol"])
    if protocol.pair is not None:
        return protocol.pair
    outcomes = read_outcomes(read_records(study.get_trials(deepcopy=False), attributes))
    (first,) = stages(protocol, outcomes, 1)
    if first.best is None:
        raise RecipeError(
            f"--from {source}: stage 1 of {study.study_name} has chosen no pair: of its "
            f"{len(first.cells)} cells {len(first.open)} are open; run that study first"
        )
    return first.best.lr, first.best.weight_decay
