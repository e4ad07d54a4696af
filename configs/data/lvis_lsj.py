# SPDX-License-Identifier: Apache-2.0
"""LVIS v1 with large-scale jitter; a delta of coco_lsj.

Images with rare classes are shown more often: a class in a share f of the images, as if it were in
sqrt(f / 0.001) times as few as 1 in 1000. Evaluation by LVIS's federated rules.

Source: repeat-factor sampling: LVIS, arXiv 1908.03195, appendix B.2; the values of Detectron2's
`projects/ViTDet/configs/LVIS/mask_rcnn_vitdet_b_100ep.py`.
"""

from detectron2.config import LazyCall as L
from detectron2.data.samplers import RepeatFactorTrainingSampler

from vitdet_d2.evaluation import LVISEvaluator

from .coco_lsj import data, dataloader

__all__ = ["data", "dataloader"]

_SPLITS = {"train": "lvis_v1_train", "test": "lvis_v1_val"}
for _part, _name in _SPLITS.items():
    dataloader[_part].dataset.names = _name

_repeats = L(RepeatFactorTrainingSampler.repeat_factors_from_category_frequency)(
    repeat_thresh=0.001,
    dataset_dicts="${...dataset}",
)
dataloader.train.sampler = L(RepeatFactorTrainingSampler)(repeat_factors=_repeats)
# Over all classes; the best scores count.
dataloader.evaluator = L(LVISEvaluator)(
    max_dets_per_image=300, dataset_name="${..test.dataset.names}"
)
