# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, ViT-Ti, COCO, 640 px, 50 epochs, for one small GPU.

Source: the detector of ViTDet (arXiv 2203.16527) on the ViT-Ti of DeiT (arXiv 2012.12877). The
settings are ours, there is no published model of this recipe, and it is not measured here yet.
For orientation, published by MAE-Lite for ViTDet on ViT-Ti at 640 px, from DeiT weights, with its
own settings on 8 GPUs: 40.4 box AP, 35.5 mask AP.
Hardware: meant for one GPU of 16 GB (an estimate). With less, append
    model.backbone.net.use_act_checkpoint=True
or halve dataloader.train.total_batch_size and optimizer.lr, and double train.max_iter.
Command:
    python train_net.py --config-file projects/vitdet_ti.py --num-gpus 1

Settings, where they differ from vitdet_b:
* 640 px and batch 16 fit the card; windows of 14 tokens stay, on a map of 40 x 40 tokens.
* 50 epochs: 368750 iterations * 16 images / 118000 images per epoch; 2 * the iterations of
  vitdet_b, its curve stretched, the warm-up 4 * 250 iterations, so as many images.
* Weights start at random, thus no layer-wise decay (lr_decay_rate 1.0: with 0.7 the first block
  would learn at a hundredth of the rate). With pre-trained weights in train.init_checkpoint use
  optimizer.params.lr_factor_func.lr_decay_rate=0.7.
* Learning rate 1e-4, as in vitdet_b: usual for detectors trained with AdamW at batch 16.

The image size stands in one place, `data.image_size`. At 320 px, without augmentation and drop
path, with 64 RoIs per image, append to the command:
    data.image_size=320 data.flip_prob=0 data.min_scale=1 data.max_scale=1 \
    model.backbone.net.drop_path_rate=0 model.roi_heads.batch_size_per_image=64
Eight photographs are learnt so in minutes on a CPU: benchmarks/photographs_cpu_202611.md.
"""

from vitdet_d2.backbones import vit_arguments

from .vitdet_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

data.image_size = 640
model.backbone.net.img_size = dataloader.image_size = "${oc.select:data.image_size, 640}"
dataloader.train.total_batch_size = 16

model.backbone.net.update(vit_arguments("ti"))
model.backbone.net.drop_path_rate = 0.1

optimizer.params.lr_factor_func.lr_decay_rate = 1.0

train.init_checkpoint = ""
train.ddp.fp16_compression = False
train.max_iter = 2 * train.max_iter
lr_multiplier.scheduler.milestones = [2 * i for i in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter
lr_multiplier.warmup_length = 1000 / train.max_iter
