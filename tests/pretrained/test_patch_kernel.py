# SPDX-License-Identifier: Apache-2.0
"""Kernels of another patch size: against timm, and by what they do to an enlarged image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor

from tests.closed_form import tensor
from vitdet_d2.pretrained.patch_kernel import resize_patch_kernel


def kernel(height: int = 14, width: int = 14) -> Tensor:
    return tensor("kernel", (4, 3, height, width)).float()


@pytest.mark.parametrize(
    ("old", "new"),
    [((14, 14), (16, 16)), ((16, 16), (14, 14)), ((8, 12), (10, 9)), ((4, 4), (9, 5))],
)
def test_pinv_matches_timm(old: tuple[int, int], new: tuple[int, int]) -> None:
    expected = resample_patch_embed(kernel(*old), list(new), "bilinear", antialias=True)
    # 1e-4: timm inverts in float32.
    torch.testing.assert_close(resize_patch_kernel(kernel(*old), new), expected, atol=1e-4, rtol=0)


def test_pinv_keeps_the_embedding_of_every_enlarged_patch() -> None:
    """FlexiViT's condition, which plain bicubic does not meet."""
    patches = tensor("patches", (50, 3, 14, 14)).float()
    larger = F.interpolate(patches, size=(16, 16), mode="bilinear", antialias=True)
    before = torch.einsum("nchw,kchw->nk", patches, kernel())
    after = torch.einsum("nchw,kchw->nk", larger, resize_patch_kernel(kernel(), (16, 16)))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    plain = resize_patch_kernel(kernel(), (16, 16), "bicubic")
    wrong = torch.einsum("nchw,kchw->nk", larger, plain)
    assert (wrong - before).abs().max() > 0.1


def test_bicubic_multiplies_what_is_even_by_the_area() -> None:
    even = torch.ones(1, 3, 14, 14)
    assert resize_patch_kernel(even, (16, 16), "bicubic").sum() == pytest.approx(3 * 16 * 16)
    assert resize_patch_kernel(even, (16, 16)).sum() == pytest.approx(3 * 14 * 14)


def test_bicubic_is_plain_interpolation() -> None:
    expected = F.interpolate(kernel(), size=(16, 18), mode="bicubic", align_corners=False)
    assert torch.equal(resize_patch_kernel(kernel(), (16, 18), "bicubic"), expected)


@pytest.mark.parametrize("method", ["pinv", "bicubic"])
def test_identity_types_and_the_meta_device(method: str) -> None:
    own = kernel()
    assert resize_patch_kernel(own, (14, 14), method) is own
    for dtype in (torch.float16, torch.bfloat16):
        half = resize_patch_kernel(own.to(dtype), (16, 12), method)
        assert half.dtype == dtype
        exact = resize_patch_kernel(own.to(dtype).float(), (16, 12), method)
        assert torch.equal(half, exact.to(dtype))
    assert resize_patch_kernel(own.to("meta"), (16, 12), method).shape == (4, 3, 16, 12)


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="patch_resize: expected pinv or bicubic, got 'bilinear'"):
        resize_patch_kernel(kernel(), (16, 16), "bilinear")  # type: ignore[arg-type]


def test_a_kernel_is_resized_where_it_is() -> None:
    """Also while modules are being built on the meta device."""
    kernel = torch.ones(1, 1, 2, 2)
    with torch.device("meta"):
        resized = resize_patch_kernel(kernel, (4, 4))
    assert resized.device.type == "cpu"
    assert torch.equal(resized, resize_patch_kernel(kernel, (4, 4)))
