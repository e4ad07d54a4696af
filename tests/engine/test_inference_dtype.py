# SPDX-License-Identifier: Apache-2.0
"""Which precision evaluation and prediction take."""

from __future__ import annotations

import pytest
import torch

from vitdet_d2.engine.inference_dtype import inference_dtype
from vitdet_d2.errors import RecipeError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has_bf16", [True, False])
def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch, has_bf16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    assert inference_dtype("auto", GPU, "key") is (torch.bfloat16 if has_bf16 else None)
    assert inference_dtype("auto", CPU, "key") is None


def test_a_named_one_is_taken():
    assert inference_dtype("fp32", GPU, "key") is None
    assert inference_dtype("bf16", CPU, "key") is torch.bfloat16
    assert inference_dtype("fp16", GPU, "key") is torch.float16


def test_what_cannot_be_is_refused():
    with pytest.raises(RecipeError, match=r"key: expected one of auto, .*, got 'int8'"):
        inference_dtype("int8", CPU, "key")
    with pytest.raises(RecipeError, match="key=fp16: not on the CPU"):
        inference_dtype("fp16", CPU, "key")
