# SPDX-License-Identifier: Apache-2.0
"""Print, flatten and verify evaluation results ``{task: {metric: value}}``."""

from __future__ import annotations

import logging
import math
import pprint
import sys
from collections.abc import Mapping
from typing import Any


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log the main metrics as comma-separated lines that paste into a spreadsheet.

    Per-class metrics (their names hold a ``-``) are left out. The lines start with
    ``copypaste:``, which log parsers of Detectron2 look for.

    Args:
        results: ``{task: {metric: value}}``; a bare value is printed as ``task=value``.

    Raises:
        TypeError: results is not a mapping.
    """
    if not isinstance(results, Mapping):
        raise TypeError(
            f"results: expected a mapping from task to metrics, got {type(results).__name__}; "
            "pass what evaluate() returned"
        )
    logger = logging.getLogger(__name__)
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(main))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg: Any, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare results with the expected ones of a yacs configuration.

    Args:
        cfg: ``cfg.TEST.EXPECTED_RESULTS`` lists ``(task, metric, expected, tolerance)``.
        results: ``{task: {metric: value}}``.

    Returns:
        True when every expected metric is there, finite and within its tolerance.

    Raises:
        SystemExit: with code 1, when one is not, after logging both sides.
    """
    expected_results = cfg.TEST.EXPECTED_RESULTS
    if not expected_results:
        return True
    logger = logging.getLogger(__name__)

    def holds(task: str, metric: str, expected: float, tolerance: float) -> bool:
        actual = results.get(task, {}).get(metric, math.nan)
        return math.isfinite(actual) and abs(actual - expected) <= tolerance

    if all(holds(*row) for row in expected_results):
        logger.info("Results verification passed.")
        return True
    logger.error("Result verification failed!")
    logger.error(f"Expected Results: {expected_results}")
    logger.error(f"Actual Results: {pprint.pformat(results)}")
    sys.exit(1)


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Turn nested results into one level: ``{"a": {"b": 1}}`` becomes ``{"a/b": 1}``.

    Args:
        results: mappings to any depth.
    """
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            inner = flatten_results_dict(value)
            flat.update({f"{key}/{name}": leaf for name, leaf in inner.items()})
        else:
            flat[key] = value
    return flat
