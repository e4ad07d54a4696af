# SPDX-License-Identifier: Apache-2.0
"""Small models of official classes: their keys and features, with weights made from the keys.

A golden ``goldens/NAME.json`` holds no weights: `fill` makes every one of them from its name and
shape alone. Its features are those of the official class, that is of the script
``goldens/make_....py``, which takes the folder of the official code:

    features: ``(h*w, C)``, after the last block and before the last norm, of the patch tokens alone
        (``patch_embed(image) + positions``), so that they are what our ViT computes.
    with_prefix: ``(P + h*w, C)``, the same with the prefix tokens (class, distillation, registers),
        as the official model runs them. They differ from ``features`` in every row.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GOLDENS = Path(__file__).parent / "goldens"
# Of float32 with features of order 1, over a few blocks; seen are at most 6e-6.
TOLERANCE = 1e-5


def fill(name: str, shape: Sequence[int]) -> Tensor:
    """Make the weights of one name, always the same, of a scale that keeps features of order 1."""
    # The legacy generator's stream is frozen: NumPy guarantees it for all versions.
    random = np.random.RandomState(zlib.crc32(name.encode()))
    noise = torch.from_numpy(random.standard_normal(tuple(shape)).astype(np.float32))
    last = name.rsplit(".", 1)[-1].rsplit("/", 1)[-1]
    if last in ("running_var", "scale") or (last == "weight" and len(shape) == 1):
        return 1 + 0.2 * noise.clamp(-2, 2)
    if "gamma" in last or "lambda" in last:
        return 0.6 + 0.2 * noise
    if len(shape) == 1 or last == "bias":
        return 0.2 * noise
    if last in ("weight", "in_proj_weight"):
        return noise / math.sqrt(math.prod(shape[1:]))
    if last == "kernel":  # flax: inputs first
        return noise / math.sqrt(math.prod(shape[:-1]))
    return 0.5 * noise  # tokens, positions, tables


def fill_model(model: nn.Module) -> dict[str, Tensor]:
    """Fill every weight of a model in place; other buffers stay as they are.

    Returns:
        Its state dict.
    """
    state = model.state_dict()
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    with torch.no_grad():
        for name, value in state.items():
            if name in weights or name.endswith(("running_mean", "running_var")):
                value.copy_(fill(name, value.shape))
    return state


def image(height: int, width: int) -> Tensor:
    """Return a normalised image ``(1, 3, height, width)``, always the same for one size."""
    random = np.random.RandomState(zlib.crc32(f"image {height}x{width}".encode()))
    return torch.from_numpy(random.standard_normal((1, 3, height, width)).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What an official class computes with filled weights.

    Attributes:
        keys: name in the official state dict -> shape, buffers included.
        buffers: those of ``keys`` that `fill` does not make.
        image: of the features.
        features: see the module.
        with_prefix: see the module; empty where the model has no prefix token.
    """

    name: str
    made_with: dict[str, str]
    how: str
    keys: dict[str, tuple[int, ...]]
    buffers: dict[str, Tensor]
    image: Tensor
    features: Tensor
    with_prefix: Tensor

    def state(self) -> dict[str, Tensor]:
        """Return the official state dict, without wrapper and prefix."""
        return {
            name: self.buffers[name].clone() if name in self.buffers else fill(name, shape)
            for name, shape in self.keys.items()
        }


def load_golden(name: str) -> Golden:
    """Read ``goldens/NAME.json``."""
    raw = json.loads((GOLDENS / f"{name}.json").read_text())
    return Golden(
        name=name,
        made_with=raw["made_with"],
        how=raw["how"],
        keys={key: tuple(shape) for key, shape in raw["keys"].items()},
        buffers={
            key: torch.tensor(value["values"], dtype=getattr(torch, value["dtype"]))
            for key, value in raw["buffers"].items()
        },
        image=image(*raw["image"]),
        features=torch.tensor(raw["features"]),
        with_prefix=torch.tensor(raw["with_prefix"]),
    )


def save_golden(
    name: str,
    *,
    made_with: Mapping[str, str],
    how: str,
    state: Mapping[str, Tensor],
    image_size: tuple[int, int],
    features: Tensor,
    with_prefix: Tensor | None = None,
) -> None:
    """Write ``goldens/NAME.json``.

    Args:
        name: of the golden.
        made_with: repository and commit of the official code; versions are added.
        how: the class with its arguments, and how the features were computed.
        state: the official state dict, without wrapper; what `fill` does not make is stored.
        image_size: of the picture, ``(height, width)``.
        features: ``(h*w, C)`` or ``(1, h*w, C)``.
        with_prefix: ``(P + h*w, C)`` or with a leading 1.
    """
    buffers = {
        key: {"dtype": str(value.dtype).removeprefix("torch."), "values": value.tolist()}
        for key, value in state.items()
        if not value.is_floating_point() or not torch.equal(value, fill(key, value.shape))
    }
    golden = {
        "made_with": {**made_with, "torch": torch.__version__, "numpy": np.__version__},
        "how": how,
        "keys": {key: list(value.shape) for key, value in state.items()},
        "buffers": buffers,
        "image": list(image_size),
        "features": _rounded(features),
        "with_prefix": [] if with_prefix is None else _rounded(with_prefix),
    }
    # One key a line; rows of numbers stay on theirs.
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items()]
    (GOLDENS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _rounded(features: Tensor) -> list[list[float]]:
    rows = features.detach().float().reshape(-1, features.shape[-1])
    # An order of magnitude below the tolerance.
    return [[round(value, 6) for value in row] for row in rows.tolist()]


def commit_of(checkout: Path) -> str:
    """Return the commit of an official checkout, out of its file COMMIT or of git."""
    stated = checkout / "COMMIT"
    if stated.is_file():
        return stated.read_text().strip()
    head = (checkout / ".git" / "HEAD").read_text().strip()
    return (checkout / ".git" / head[5:]).read_text().strip() if head.startswith("ref:") else head


def training_file(
    state: Mapping[str, Any], *, wrapper: str = "model", prefix: str = "", **extra: Any
) -> dict[str, Any]:
    """Return what an official training script saves: weights, optimiser, arguments.

    Args:
        state: the official state dict.
        wrapper: key under which it is.
        prefix: of every name, as ``module.``.
        extra: further entries.
    """
    weights = {prefix + name: value for name, value in state.items()}
    moments = {
        index: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
        for index in range(3)
    }
    group = {"lr": 1.5e-4, "betas": (0.9, 0.95), "weight_decay": 0.05, "params": [0, 1, 2]}
    return {
        wrapper: weights,
        "optimizer": {"state": moments, "param_groups": [group]},
        "epoch": 399,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        "args": argparse.Namespace(
            lr=None, blr=1.5e-4, opt_betas=[0.9, 0.95], model="vit", output_dir="./out", resume=""
        ),
        **extra,
    }


def save_training_file(
    path: Path,
    state: Mapping[str, Any],
    *,
    wrapper: str = "model",
    prefix: str = "",
    **extra: Any,
) -> Path:
    """Write `training_file` as torch does.

    Returns:
        The path.
    """
    torch.save(training_file(state, wrapper=wrapper, prefix=prefix, **extra), path)
    return path


@torch.no_grad()
def patch_features(vit: nn.Module, picture: Tensor) -> Tensor:
    """Return our ViT's last map as ``(h*w, C)``."""
    (features,) = list(vit.eval()(picture).values())[-1:]
    return features[0].flatten(1).T


@torch.no_grad()
def prefix_features(
    vit: nn.Module,
    picture: Tensor,
    prefix: Tensor,
    run: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> Tensor:
    """Run prefix and patch tokens through our ViT's blocks, as a map of one row.

    Args:
        vit: without windows and relative positions, and of the picture's own grid.
        picture: ``(1, 3, H, W)``.
        prefix: ``(P, C)``, with their positions added.
        run: calls a block with ``(1, 1, P + h*w, C)``; None: plainly.

    Returns:
        ``(P + h*w, C)``, rows in this order.
    """
    vit.eval()
    patches = vit.patch_embed(picture).flatten(1, 2)  # (1, h*w, C)
    if vit.pos_embed is not None:
        patches = patches + vit.pos_embed[:, vit.pos_embed.shape[1] - patches.shape[1] :]
    x = torch.cat([prefix[None], patches], dim=1)[:, None]
    for block in vit.blocks:
        x = block(x) if run is None else run(block, x)
    return x[0, 0]


def assert_features(vit: nn.Module, golden: Golden, prefix: Tensor | None = None) -> None:
    """Compare our ViT with the official class: patches alone, and with prefix where it is given."""
    close = {"atol": TOLERANCE, "rtol": 0}
    features = patch_features(vit, golden.image)
    torch.testing.assert_close(features, golden.features, **close)
    if prefix is None:
        return
    both = prefix_features(vit, golden.image, prefix)
    torch.testing.assert_close(both, golden.with_prefix, **close)
    # Otherwise the first comparison could stand for the second.
    assert (both[len(prefix) :] - features).abs().max() > 100 * TOLERANCE
