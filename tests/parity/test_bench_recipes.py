# SPDX-License-Identifier: Apache-2.0
"""What `vitdet bench` measures as Detectron2 consists of an installed Detectron2's parts alone."""

import pytest
from detectron2.config import instantiate
from detectron2.modeling.backbone import vit as original

from vitdet_d2.analysis.bench.translate import resolved, to_detectron2
from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo import get_config

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif("vitdet_d2" in original.ViT.__module__, reason="no Detectron2 is installed"),
]


@pytest.mark.parametrize("name", ["vitdet_b", "cascade_vitdet_b", "faster_rcnn_vitdet_b"])
def test_recipes_become_detectron2s_own(name):
    cfg = get_config(name)
    cfg.model.backbone.net.update(depth=2, embed_dim=32, num_heads=2, window_block_indexes=[0])
    ours = instantiate(cfg.model)
    theirs = instantiate(to_detectron2(resolved(cfg.model)))
    packages = {type(module).__module__.partition(".")[0] for module in theirs.modules()}
    assert "vitdet_d2" not in packages
    assert "detectron2" in packages
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert shapes == {key: value.shape for key, value in ours.state_dict().items()}


def test_a_part_without_a_counterpart_is_named():
    cfg = get_config("lvis_vitdet_b")
    with pytest.raises(RecipeError, match="FederatedClassWeights: Detectron2 has no such part"):
        to_detectron2(resolved(cfg.model))
