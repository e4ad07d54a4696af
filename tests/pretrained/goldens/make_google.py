# SPDX-License-Identifier: Apache-2.0
"""Golden of Google's ViT: ``python -m tests.pretrained.goldens.make_google CHECKOUT``.

The checkout is one of google-research/vision_transformer; jax and flax must be installed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import flax
import jax
import numpy as np
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from torch import Tensor

from tests.pretrained import golden
from tests.pretrained.goldens import official


def blocks_of(module: Any, params: dict[str, Any], tokens: np.ndarray) -> Tensor:
    """Run the official blocks one after the other."""
    x = tokens
    for number in range(2):
        block = module.Encoder1DBlock(mlp_dim=96, num_heads=3)
        weights = {"params": params["Transformer"][f"encoderblock_{number}"]}
        x = block.apply(weights, x, deterministic=True)
    return torch.from_numpy(np.array(x))


def main() -> None:
    """Write the golden ``google``, in the numbering of current flax."""
    folder = official.checkout()
    module = official.load("vit_jax.models_vit")
    model = module.VisionTransformer(
        num_classes=5,
        patches=SimpleNamespace(size=(16, 16)),
        transformer={"num_layers": 2, "mlp_dim": 96, "num_heads": 3},
        hidden_size=24,
        representation_size=10,
    )
    picture = golden.image(48, 48)
    pixels = picture.permute(0, 2, 3, 1).numpy()
    made = model.init(jax.random.PRNGKey(0), pixels, train=False)["params"]
    shapes = {"/".join(key): value.shape for key, value in flatten_dict(made).items()}
    state = {name: golden.fill(name, shape) for name, shape in shapes.items()}
    params = unflatten_dict({tuple(name.split("/")): v.numpy() for name, v in state.items()})

    _, captured = model.apply({"params": params}, pixels, train=False, capture_intermediates=True)
    patches = np.array(captured["intermediates"]["embedding"]["__call__"][0]).reshape(1, 9, 24)
    positions = params["Transformer"]["posembed_input"]["pos_embedding"]
    last = captured["intermediates"]["Transformer"]["encoderblock_1"]["__call__"][0]
    golden.save_golden(
        "google",
        made_with={
            "repository": "google-research/vision_transformer",
            "commit": golden.commit_of(folder),
            "jax": jax.__version__,
            "flax": flax.__version__,
        },
        how="VisionTransformer(patch 16, hidden_size=24, 2 layers, 3 heads, "
        "representation_size=10) on 48x48; with_prefix: output of the last block",
        state=state,
        image_size=(48, 48),
        features=blocks_of(module, params, patches + positions[:, 1:]),
        with_prefix=torch.from_numpy(np.array(last)),
    )


if __name__ == "__main__":
    main()
