# SPDX-License-Identifier: Apache-2.0
"""What LVIS asks of box predictors: a sigmoid per class, judged on some classes at a time.

A recipe updates its `model.roi_heads.box_predictor`, or each of its `box_predictors`.

Source: the federated loss: arXiv 2103.07461, section 4; the values of Detectron2's
`projects/ViTDet/configs/LVIS/mask_rcnn_vitdet_b_100ep.py`.
"""

from detectron2.config import LazyCall as L

from vitdet_d2.data.class_frequencies import FederatedClassWeights

NUM_CLASSES = 1203  # of LVIS v1

predictor = {
    "test_score_thresh": 0.02,
    "test_topk_per_image": 300,
    "use_sigmoid_ce": True,
    "use_fed_loss": True,
    "fed_loss_num_classes": 50,
    "get_fed_loss_cls_weights": L(FederatedClassWeights)(
        dataset_names="${oc.select:dataloader.train.dataset.names, lvis_v1_train}",
        freq_weight_power=0.5,
        num_classes="${..num_classes}",
    ),
}
