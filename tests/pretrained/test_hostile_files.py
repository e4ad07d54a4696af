# SPDX-License-Identifier: Apache-2.0
"""Files that were made to do harm, or that are no weights at all, through `load` itself."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.checks.hostile_pickles import attacks, inside
from tests.checks.test_hostile_pickles import ATTACKS
from tests.pretrained import golden
from vitdet_d2.backbones import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load
from vitdet_d2.pretrained.options import vit_options


def vit() -> ViT:
    return ViT(img_size=32, pretrain_img_size=32, embed_dim=24, depth=2, num_heads=3)


def objects(program: bytes) -> bytes:
    """An archive of numpy whose array of objects is a pickle."""
    array, buffer = io.BytesIO(), io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pos_embed.npy", array.getvalue() + program)
    return buffer.getvalue()


FORMS: dict[str, Callable[[bytes], bytes]] = {
    ".pkl": lambda program: program,
    ".pth": lambda program: inside(program, "zip"),
    ".bin": lambda program: inside(program, "zip"),
    ".pt": lambda program: inside(program, "torchscript"),
    ".pth.tar": lambda program: inside(program, "legacy"),
    ".npz": objects,
}


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_by_name(attack: str, ending: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"weights{ending}"
    path.write_bytes(FORMS[ending](attacks(marker)[attack]))
    expected = {".npz": r"pos_embed\.npy holds Python objects"}.get(
        ending, r"refused, the file asks for the Python object `[\w.]+`.*only its tensors"
    )
    with pytest.raises(WeightsError, match=rf"weights{ending}: {expected}"):
        load(vit(), path)
    assert not marker.exists()


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "scalar": lambda _: torch.tensor(1.0),
    "empty": lambda _: torch.zeros(0),
    "flat": torch.flatten,
    "a row less": lambda tensor: tensor[:-1],
    "five axes": lambda _: torch.ones(1, 2, 1, 2, 2),
    "integers": lambda tensor: tensor.to(torch.int64),
    "one byte": lambda tensor: tensor.to(torch.float8_e4m3fn),
}
FILES = ["mae", "beit_finetuned", "google", "dinov3", "eva02_finetuned_small", "deit3"]


@pytest.mark.filterwarnings("ignore:.*T:UserWarning")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", FILES)
def test_any_tensor_of_another_shape_ends_in_a_clear_error(name: str, change: str) -> None:
    source = "deit3" if name == "deit3" else None  # its keys alone do not tell
    made = golden.load_golden(name)
    state = made.state()
    options = vit_options(state, source=source)
    model = ViT(**{"num_heads": 3, **options, "img_size": made.image.shape[-1]})
    refused = []
    for key in [key for key in state if ".1." not in key and "block_1" not in key]:
        content = {**state, key: CHANGES[change](state[key])}
        # Anything but a report or this error fails the test.
        try:
            load(model, "x.pth", source=source, content=content)
        except WeightsError as error:
            refused.append(str(error))
    assert len(refused) > 3, "most tensors are read, and must fit"
    assert all(message.startswith("x.pth: ") for message in refused)


@pytest.mark.parametrize("layer_scale", ["keep", "fold"])
def test_a_scale_of_one_number_is_not_spread_over_all(layer_scale: Any) -> None:
    made = golden.load_golden("deit3")
    state = made.state()
    options = vit_options(state, source="deit3")
    model = ViT(**{"num_heads": 3, **options, "img_size": made.image.shape[-1]})
    state["blocks.0.gamma_1"] = torch.ones(1)
    with pytest.raises(WeightsError, match=r"blocks\.0\.ls1\.gamma has 1 numbers for the 24 rows"):
        load(model, "x.pth", source="deit3", content=state, layer_scale=layer_scale)


NESTS = {
    "in itself": (b"\x80\x04}q\x00X\x05\x00\x00\x00modelh\x00s.", "got also model under 'model'"),
    "700 deep": (b"\x80\x04}" + b"X\x01\x00\x00\x00a}" * 700 + b"s" * 700 + b".", "too deeply"),
    "keys that are no texts": (pickle.dumps({5: np.zeros(2), ("a",): 1}), r"got also 5, \('a',\)"),
    "notes that are no texts": (
        pickle.dumps({"__metadata__": 3, "a": np.zeros(2)}), "of no known source"
    ),
    "a number of a block without end": (
        pickle.dumps({
            "patch_embed.proj.weight": np.zeros((24, 3, 16, 16)), "cls_token": np.zeros((1, 1, 24)),
            f"blocks.{'9' * 5000}.norm1.weight": np.zeros(24),
        }),
        "no such keys|no known source",
    ),
}  # fmt: skip


@pytest.mark.parametrize("nest", NESTS)
def test_nests_end_in_a_clear_error(nest: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(NESTS[nest][0])
    with pytest.raises(WeightsError, match=NESTS[nest][1]):
        load(vit(), path)


def test_class_names_that_are_none_are_refused() -> None:
    model = vit()
    content = {"model": dict(model.state_dict()), "vitdet_d2": {"thing_classes": 5}}
    with pytest.raises(WeightsError, match=r"entry 'vitdet_d2'.* is damaged: thing_classes is 5"):
        load(model, "x.pth", content=content)


def test_the_array_of_objects_is_real(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(objects(attacks(tmp_path / "marker")["__reduce__"]))
    with np.load(path, allow_pickle=True) as file:
        file["pos_embed"]
    assert (tmp_path / "marker").is_dir()
