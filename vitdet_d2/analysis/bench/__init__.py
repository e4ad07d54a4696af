# SPDX-License-Identifier: Apache-2.0
"""Speed and memory beside Detectron2's: two processes that take turns on the same work."""
