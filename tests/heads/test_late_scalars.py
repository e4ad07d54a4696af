# SPDX-License-Identifier: Apache-2.0
"""Numbers that are logged on the device and read once."""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage

from vitdet_d2.heads.late_scalars import collected, log_scalars, name_scope


def ratio(numbers):
    part, whole = numbers
    return {"ratio": part / whole} if whole else {}


def stored(storage):
    return {name: value for name, (value, _) in storage.latest().items()}


def test_without_a_collector_scalars_are_stored_at_once():
    with EventStorage() as storage:
        log_scalars(torch.tensor([1, 4]), ratio)
        assert stored(storage) == {"ratio": 0.25}


def test_a_collector_keeps_them_until_they_are_put():
    with EventStorage(7) as storage:
        with collected() as late:
            with name_scope("stage1"):
                log_scalars([torch.tensor(1.0), torch.tensor(2.0)], ratio)
            log_scalars(torch.tensor([3.0, 4.0]), ratio)
        assert stored(storage) == {}
        values = late.values()
        assert values.tolist() == [1, 2, 3, 4]
        late.put(storage, values.tolist())
        assert storage.latest() == {"stage1/ratio": (0.5, 7), "ratio": (0.75, 7)}
        assert len(late.values()) == 0


def test_the_scope_is_that_of_the_storage_too():
    with EventStorage() as storage, name_scope("stage2"):
        log_scalars(torch.tensor([1, 2]), ratio)
        storage.put_scalar("other", 3.0)
        assert stored(storage) == {"stage2/ratio": 0.5, "stage2/other": 3.0}


def test_scalars_that_are_left_out_do_not_shift_the_rest():
    with EventStorage() as storage:
        with collected() as late:
            log_scalars(torch.tensor([1, 0]), ratio)
            log_scalars(torch.tensor([1, 5]), ratio)
        late.put(storage, late.values().tolist())
        assert stored(storage) == {"ratio": 0.2}


def test_another_number_of_values_is_refused():
    with EventStorage() as storage, collected() as late:
        log_scalars(torch.tensor([1, 2]), ratio)
        with pytest.raises(ValueError, match="expected 2 numbers, got 1"):
            late.put(storage, [1.0])


def test_scalars_after_an_error_in_the_block_are_stored_at_once():
    with EventStorage() as storage:
        with pytest.raises(RuntimeError, match="broken"), collected():
            raise RuntimeError("broken")
        log_scalars(torch.tensor([1, 2]), ratio)
        assert stored(storage) == {"ratio": 0.5}
