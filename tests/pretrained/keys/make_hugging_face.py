# SPDX-License-Identifier: Apache-2.0
"""Write the key lists of transformers' classes at full size: what ``save_pretrained`` writes.

Run from the root of the repository: ``python -m tests.pretrained.keys.make_hugging_face``; the
largest needs 3 GB of memory and disk for a moment.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers import PreTrainedModel

from tests.pretrained import key_lists

LARGE_HEADS = {"num_hidden_layers": 40, "hidden_size": 1536, "num_attention_heads": 24}
CLASSES: dict[str, Callable[[], PreTrainedModel]] = {
    "hf_vit": lambda: transformers.ViTModel(transformers.ViTConfig()),
    "hf_vit_cls": lambda: transformers.ViTForImageClassification(transformers.ViTConfig()),
    "hf_vit_mim": lambda: transformers.ViTForMaskedImageModeling(transformers.ViTConfig()),
    "hf_vitmae": lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig()),
    "hf_vitmae_pre": lambda: transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig()),
    "hf_deit_dist": lambda: transformers.DeiTForImageClassificationWithTeacher(
        transformers.DeiTConfig()
    ),
    "hf_ijepa": lambda: transformers.IJepaModel(transformers.IJepaConfig()),
    "hf_msn": lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig()),
    "hf_beit_cls": lambda: transformers.BeitForImageClassification(
        transformers.BeitConfig(use_relative_position_bias=True)
    ),
    "hf_beit_mim": lambda: transformers.BeitForMaskedImageModeling(
        transformers.BeitConfig(use_shared_relative_position_bias=True, use_mask_token=True)
    ),
    "hf_data2vec": lambda: transformers.Data2VecVisionModel(
        transformers.Data2VecVisionConfig(use_shared_relative_position_bias=True)
    ),
    "hf_dinov2": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(image_size=518, patch_size=14)
    ),
    "hf_dinov2_g": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(
            image_size=518, patch_size=14, use_swiglu_ffn=True, **LARGE_HEADS
        )
    ),
    "hf_dinov2_reg": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(image_size=518, patch_size=14)
    ),
    "hf_dinov3": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_register_tokens=4
        )
    ),
    "hf_dinov3_splus": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(num_register_tokens=4, use_gated_mlp=True)
    ),
    "hf_clip": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(vision_config={"patch_size": 16})
    ),
    "hf_clip_vision": lambda: transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(patch_size=16)
    ),
    "hf_sam": lambda: transformers.SamModel(transformers.SamConfig()),
    "hf_vitdet": lambda: transformers.VitDetModel(
        transformers.VitDetConfig(
            image_size=1024, pretrain_image_size=224, window_size=14,
            window_block_indices=[0, 1, 3, 4, 6, 7, 9, 10], use_relative_position_embeddings=True,
        )
    ),
}  # fmt: skip


def main() -> None:
    """Build each class without memory, give it some, save it, and read the header of the file."""
    for name, build in CLASSES.items():
        with torch.device("meta"):
            model = build().to(torch.bfloat16)
        with tempfile.TemporaryDirectory() as folder:
            model.to_empty(device="cpu").save_pretrained(folder, max_shard_size="50GB")
            with safe_open(Path(folder) / "model.safetensors", "pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
        made_with = f"transformers {transformers.__version__}, {type(model).__name__}"
        key_lists.write(name, shapes, f"{made_with}; the names in its model.safetensors")
        assert {k: tuple(v.shape) for k, v in key_lists.read(name).items()} == shapes, name
        print(name, len(shapes))


if __name__ == "__main__":
    main()
