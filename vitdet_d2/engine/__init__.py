# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation: from a recipe to a run folder."""
