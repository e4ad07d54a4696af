# SPDX-License-Identifier: Apache-2.0
"""Where pre-trained backbones were released, and under what terms: the rows, as flat data.

Every address stands in the authors' own repository or README. Where they publish none that a
program can download from, the row has None, and says how to get the file.

Source: README and code of facebookresearch/{mae, moco-v3, deit, dino, msn, ijepa, dinov2, dinov3,
    segment-anything}, microsoft/unilm, bytedance/ibot, google-research/vision_transformer,
    openai/CLIP, mlfoundations/open_clip, baaivision/EVA, whai362/PVT, NVlabs/SegFormer; MAE:
    Detectron2's ViTDet recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitdet_d2.zoo.addresses import DETECTRON2_ADDRESS, hash_prefix

_FAIR = "https://dl.fbaipublicfiles.com"
_BEIT = "https://github.com/addf400/files/releases/download"
_AUGREG = "https://storage.googleapis.com/vit_models/augreg"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_OPENCLIP = "https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights"
_EVA02 = "https://huggingface.co/Yuxin-CV/EVA-02/resolve/main/eva02/pt"
_DINOV3_PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
_PVT = "https://github.com/whai362/PVT/releases/download/v2"
_MIT_PAGE = "https://github.com/NVlabs/SegFormer#training"
_IBOT_PAGE = "https://github.com/bytedance/ibot#pre-trained-models"

_NON_COMMERCIAL = "CC BY-NC 4.0"
_APACHE = "Apache-2.0"
_MIT = "MIT"
_SEGFORMER = "NVIDIA Source Code License for SegFormer, non-commercial"

_DEIT3_SIZES = {"s": "small", "b": "base", "l": "large"}
_BASE_AND_LARGE = {"b": "base", "l": "large"}
_DINOV2_SIZES = {size: size for size in "sblg"}


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """One released backbone.

    Attributes:
        name: ours.
        source: the name of its layout, as ``load(source=...)`` takes it.
        pretraining: method and data.
        size: of the backbone, in lower case.
        patch: side of a patch in pixels; of a pyramid transformer, the stride of its first stage.
        licence: of the weights, as their authors' repository states it.
        address: where they are released; None: nowhere that a program can download from.
        note: what else to know; where there is no address, how to get the file.
        kind: of the backbone: a plain ``ViT``, or the pyramid transformers ``PVT``, ``PVT v2``,
            ``MiT``.
    """

    name: str
    source: str
    pretraining: str
    size: str
    patch: int
    licence: str
    address: str | None
    note: str = ""
    kind: Literal["ViT", "PVT", "PVT v2", "MiT"] = "ViT"

    @property
    def digits(self) -> str | None:
        """The published part of the file's hash, by which a download is verified."""
        return None if self.address is None else hash_prefix(self.address)


def _family(
    names: str,
    source: str,
    pretraining: str,
    licence: str,
    address: str,
    parts: dict[str, str],
    *,
    patch: int = 16,
    note: str = "",
    kind: Literal["ViT", "PVT", "PVT v2", "MiT"] = "ViT",
) -> tuple[Initialisation, ...]:
    """Make the rows of a method, one for each size.

    Args:
        names: with ``{}`` for the size.
        source: as of `Initialisation`.
        pretraining: likewise.
        licence: likewise.
        address: with ``{0}`` for what differs.
        parts: what differs, by size.
        patch: as of `Initialisation`.
        note: likewise.
        kind: likewise.
    """
    return tuple(
        Initialisation(
            name=names.format(size),
            source=source,
            pretraining=pretraining,
            size=size,
            patch=patch,
            licence=licence,
            address=address.format(part),
            note=note,
            kind=kind,
        )
        for size, part in parts.items()
    )


def _dinov3(size: str, file: str, data: str = "LVD-1689M", suffix: str = "") -> Initialisation:
    """Make a row of DINOv3, whose links are sent by mail and end after a while."""
    return Initialisation(
        name=f"dinov3_{size}{suffix}",
        source="dinov3",
        pretraining=f"DINOv3, {data}",
        size=size,
        patch=16,
        licence="DINOv3 License",
        address=None,
        note=f"accept the licence at {_DINOV3_PAGE}, download dinov3_{file}.pth with the link that "
        "is sent to you, and give the path of the file",
    )


def _ibot(size: str, data: str = "IN1K", suffix: str = "") -> Initialisation:
    """Make a row of iBOT, whose files lie on a drive that asks questions."""
    return Initialisation(
        name=f"ibot_{size}{suffix}",
        source="ibot",
        pretraining=f"iBOT, {data}",
        size=size,
        patch=16,
        licence=_APACHE,
        address=None,
        note=f"download the backbone with a browser from {_IBOT_PAGE}, and give the path of the "
        "file",
    )


def _mit(size: str) -> Initialisation:
    """Make a row of MiT, whose files lie on drives that ask questions."""
    return Initialisation(
        name=f"mit_{size}",
        source="mit",
        pretraining="supervised, IN1K",
        size=size,
        patch=4,
        licence=_SEGFORMER,
        address=None,
        note="for research and evaluation alone, not for commercial use; download "
        f"mit_{size}.pth with a browser from the drives that are named at {_MIT_PAGE}, and give "
        "the path of the file",
        kind="MiT",
    )


# fmt: off
INITIALISATIONS: tuple[Initialisation, ...] = (
    *_family(
        "mae_vit_{}", "mae", "MAE, IN1K", _NON_COMMERCIAL,
        f"{DETECTRON2_ADDRESS}ImageNetPretrained/MAE/mae_pretrain_vit_{{0}}.pth",
        {"b": "base", "l": "large", "h": "huge_p14to16"},
        note="as Detectron2's ViTDet recipes take it",
    ),
    *_family(
        "mae_vit_{}_p14", "mae", "MAE, IN1K", _NON_COMMERCIAL,
        f"{_FAIR}/mae/pretrain/mae_pretrain_vit_{{0}}.pth", {"h": "huge"}, patch=14,
    ),
    *_family(
        "mocov3_vit_{}", "mocov3", "MoCo v3, IN1K", _NON_COMMERCIAL,
        f"{_FAIR}/moco-v3/vit-{{0}}-300ep/vit-{{0}}-300ep.pth.tar", {"s": "s", "b": "b"},
    ),
    *_family(
        "beit_{}", "beit", "BEiT, IN22K", _MIT,
        f"{_BEIT}/v1.0/beit_{{0}}_patch16_224_pt22k.pth", _BASE_AND_LARGE,
    ),
    *_family(
        "beit_{}_ft22k", "beit", "BEiT, then supervised, IN22K", _MIT,
        f"{_BEIT}/v1.0/beit_{{0}}_patch16_224_pt22k_ft22k.pth", _BASE_AND_LARGE,
    ),
    *_family(
        "beit_{}_in1k", "beit_in1k", "BEiT, IN1K", _MIT,
        f"{_BEIT}/v1.0/beit_{{0}}_patch16_224_pt1k_800ep.pth", {"b": "base"},
    ),
    *_family(
        "beitv2_{}", "beit_v2", "BEiT v2, IN1K", _MIT,
        f"{_BEIT}/BEiT-v2/beitv2_{{0}}_patch16_224_pt1k.pth", _BASE_AND_LARGE,
    ),
    *_family(
        "beitv2_{}_ft21k", "beit_v2", "BEiT v2, IN1K, then supervised, IN21K", _MIT,
        f"{_BEIT}/BEiT-v2/beitv2_{{0}}_patch16_224_pt1k_ft21k.pth", _BASE_AND_LARGE,
    ),
    *_family(
        "deit_{}", "deit", "DeiT, supervised, IN1K", _APACHE,
        f"{_FAIR}/deit/deit_{{0}}.pth",
        {
            "ti": "tiny_patch16_224-a1311bcf",
            "s": "small_patch16_224-cd65a155",
            "b": "base_patch16_224-b5f2ef4d",
        },
    ),
    *_family(
        "deit_distilled_{}", "deit", "DeiT, supervised and distilled, IN1K", _APACHE,
        f"{_FAIR}/deit/deit_{{0}}.pth",
        {
            "ti": "tiny_distilled_patch16_224-b40b3cf7",
            "s": "small_distilled_patch16_224-649709d9",
            "b": "base_distilled_patch16_224-df68dfff",
        },
    ),
    *_family(
        "deit3_{}", "deit3", "DeiT III, supervised, IN1K", _APACHE,
        f"{_FAIR}/deit/deit_3_{{0}}_224_1k.pth", _DEIT3_SIZES,
    ),
    *_family(
        "deit3_{}", "deit3", "DeiT III, supervised, IN1K", _APACHE,
        f"{_FAIR}/deit/deit_3_{{0}}_224_1k.pth", {"h": "huge"}, patch=14,
    ),
    *_family(
        "deit3_{}_in21k", "deit3", "DeiT III, supervised, IN21K, then IN1K", _APACHE,
        f"{_FAIR}/deit/deit_3_{{0}}_224_21k.pth", _DEIT3_SIZES,
    ),
    *_family(
        "deit3_{}_in21k", "deit3", "DeiT III, supervised, IN21K, then IN1K", _APACHE,
        f"{_FAIR}/deit/deit_3_{{0}}_224_21k_v1.pth", {"h": "huge"}, patch=14,
    ),
    *_family(
        "augreg_{}", "google", "AugReg, supervised, IN21K", _APACHE,
        f"{_AUGREG}/{{0}}.npz",
        {
            "ti": "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0",
            "s": "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0",
            "b": "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0",
            "l": "L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1",
        },
    ),
    *_family(
        "dino_{}", "dino", "DINO, IN1K", _APACHE,
        f"{_FAIR}/dino/dino_{{0}}_pretrain/dino_{{0}}_pretrain.pth",
        {"s": "deitsmall16", "b": "vitbase16"},
    ),
    *_family(
        "dino_{}_p8", "dino", "DINO, IN1K", _APACHE,
        f"{_FAIR}/dino/dino_{{0}}_pretrain/dino_{{0}}_pretrain.pth",
        {"s": "deitsmall8", "b": "vitbase8"}, patch=8,
    ),
    _ibot("s"),
    _ibot("b"),
    _ibot("b", "IN22K", "_in22k"),
    _ibot("l", "IN22K", "_in22k"),
    *_family(
        "msn_{}", "msn", "MSN, IN1K", _NON_COMMERCIAL,
        f"{_FAIR}/msn/vit{{0}}ep.pth.tar", {"s": "s16_800", "b": "b16_600", "l": "l16_600"},
    ),
    *_family(
        "ijepa_{}", "ijepa", "I-JEPA, IN1K, 448 px", _NON_COMMERCIAL,
        f"{_FAIR}/ijepa/IN1K-vit.{{0}}.16-448px-300e.pth.tar", {"h": "h"},
    ),
    *_family(
        "ijepa_{}_p14", "ijepa", "I-JEPA, IN1K", _NON_COMMERCIAL,
        f"{_FAIR}/ijepa/IN1K-vit.{{0}}.14-300e.pth.tar", {"h": "h"}, patch=14,
    ),
    *_family(
        "dinov2_{}", "dinov2", "DINOv2, LVD-142M", _APACHE,
        f"{_FAIR}/dinov2/dinov2_vit{{0}}14/dinov2_vit{{0}}14_pretrain.pth",
        _DINOV2_SIZES, patch=14,
    ),
    *_family(
        "dinov2_reg_{}", "dinov2", "DINOv2 with registers, LVD-142M", _APACHE,
        f"{_FAIR}/dinov2/dinov2_vit{{0}}14/dinov2_vit{{0}}14_reg4_pretrain.pth",
        _DINOV2_SIZES, patch=14,
    ),
    _dinov3("s", "vits16_pretrain_lvd1689m-08c60483"),
    _dinov3("splus", "vits16plus_pretrain_lvd1689m-4057cbaa"),
    _dinov3("b", "vitb16_pretrain_lvd1689m-73cec8be"),
    _dinov3("l", "vitl16_pretrain_lvd1689m-8aa4cbdd"),
    _dinov3("hplus", "vith16plus_pretrain_lvd1689m-7c1da9a5"),
    _dinov3("7b", "vit7b16_pretrain_lvd1689m-a955f4ea"),
    _dinov3("l", "vitl16_pretrain_sat493m-eadcf0ff", "SAT-493M", "_sat"),
    *_family(
        "sam_{}", "sam", "Segment Anything, SA-1B", _APACHE,
        f"{_FAIR}/segment_anything/sam_vit_{{0}}.pth",
        {"b": "b_01ec64", "l": "l_0b3195", "h": "h_4b8939"},
    ),
    *_family(
        "clip_{}", "clip", "CLIP of OpenAI, WIT-400M", _MIT, f"{_CLIP}/{{0}}/ViT-B-16.pt",
        {"b": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"},
    ),
    *_family(
        "clip_{}", "clip", "CLIP of OpenAI, WIT-400M", _MIT, f"{_CLIP}/{{0}}/ViT-L-14.pt",
        {"l": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"}, patch=14,
    ),
    *_family(
        "openclip_{}", "openclip", "OpenCLIP, LAION-400M", _MIT,
        f"{_OPENCLIP}/vit_{{0}}.pt", {"b": "b_16-laion400m_e32-55e67d44"},
    ),
    *_family(
        "openclip_{}", "openclip", "OpenCLIP, LAION-400M", _MIT,
        f"{_OPENCLIP}/vit_{{0}}.pt", {"l": "l_14-laion400m_e32-3d133497"}, patch=14,
    ),
    *_family(
        "eva02_{}", "eva02", "EVA-02, IN21K", _MIT,
        f"{_EVA02}/eva02_{{0}}_pt_in21k_p14to16.pt", {"b": "B", "l": "L"},
    ),
    *_family(
        "eva02_{}_p14", "eva02", "EVA-02, IN21K", _MIT,
        f"{_EVA02}/eva02_{{0}}_pt_in21k_p14.pt",
        {"ti": "Ti", "s": "S", "b": "B", "l": "L"}, patch=14,
    ),
    *_family(
        "pvt_{}", "pvt", "supervised, IN1K", _APACHE, f"{_PVT}/pvt_{{0}}.pth",
        {size: size for size in ("tiny", "small", "medium", "large")}, patch=4, kind="PVT",
    ),
    *_family(
        "pvt_v2_{}", "pvt_v2", "supervised, IN1K", _APACHE, f"{_PVT}/pvt_v2_{{0}}.pth",
        {size: size for size in ("b0", "b1", "b2", "b2_li", "b3", "b4", "b5")}, patch=4,
        kind="PVT v2",
    ),
    *map(_mit, ("b0", "b1", "b2", "b3", "b4", "b5")),
)
# fmt: on
