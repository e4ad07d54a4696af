# SPDX-License-Identifier: Apache-2.0
"""The default configuration, put together; other projects extend ``_C`` in place.

Source: keys and values of detectron2 ``config/defaults.py``.
"""

from __future__ import annotations

from detectron2.config.config import CfgNode
from detectron2.config.keys import data, dense, network, proposals, regions, training, unbundled

# Goes up when a key is renamed; `detectron2.config.compat` knows the way from older ones.
_VERSION = 2

_C = CfgNode(
    {
        "VERSION": _VERSION,
        "MODEL": {
            **network.MODEL,
            **unbundled.SWITCHES,
            "BACKBONE": network.BACKBONE,
            "FPN": network.FPN,
            "ANCHOR_GENERATOR": proposals.ANCHOR_GENERATOR,
            "PROPOSAL_GENERATOR": proposals.PROPOSAL_GENERATOR,
            "RPN": proposals.RPN,
            "ROI_HEADS": regions.ROI_HEADS,
            "ROI_BOX_HEAD": regions.ROI_BOX_HEAD,
            "ROI_BOX_CASCADE_HEAD": regions.ROI_BOX_CASCADE_HEAD,
            "ROI_MASK_HEAD": regions.ROI_MASK_HEAD,
            "ROI_KEYPOINT_HEAD": unbundled.ROI_KEYPOINT_HEAD,
            "SEM_SEG_HEAD": unbundled.SEM_SEG_HEAD,
            "PANOPTIC_FPN": unbundled.PANOPTIC_FPN,
            "RETINANET": dense.RETINANET,
            "RESNETS": unbundled.RESNETS,
        },
        "INPUT": data.INPUT,
        "DATASETS": data.DATASETS,
        "DATALOADER": data.DATALOADER,
        "SOLVER": training.SOLVER,
        "TEST": training.TEST,
        **training.RUN,
    }
)
