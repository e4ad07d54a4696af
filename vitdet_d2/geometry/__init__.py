# SPDX-License-Identifier: Apache-2.0
"""Plane geometry in numpy and torch, below the runtime: both Detectron2s build on it."""
