# SPDX-License-Identifier: Apache-2.0
"""Default values of Detectron2's yacs keys, by the part that reads them.

``data``: loaders and mappers; ``network``: whole model, backbone and pyramid; ``proposals``:
anchors and the region proposal network; ``regions``: heads on regions; ``dense``:
RetinaNet; ``training``: optimizer,
schedule, evaluation and run; ``unbundled``: parts that are not here, whose keys other people set.

Keys and values are interface and agree with Detectron2 at 02b5c4e.
"""
