# SPDX-License-Identifier: Apache-2.0
"""The tuning protocol of the detection benchmark, on top of Optuna's storage."""
