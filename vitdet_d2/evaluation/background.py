# SPDX-License-Identifier: Apache-2.0
"""An evaluator that works while the model computes the next batches."""

from __future__ import annotations

import queue
import threading
from typing import Any

from detectron2.evaluation import DatasetEvaluator

# Batches that may wait. Detections are small; without a limit a slow evaluator would gather all.
_MOST_WAITING = 16


class BackgroundEvaluator(DatasetEvaluator):
    """Hands batches, in order, to another evaluator in a thread.

    An error of the other evaluator is raised by the next call. `close` ends the thread.
    """

    def __init__(self, evaluator: DatasetEvaluator) -> None:
        """Start the thread.

        Args:
            evaluator: whose ``process`` keeps nothing of the inputs but what it reads of them.
        """
        self._evaluator = evaluator
        self._waiting: queue.Queue[tuple[Any, Any] | None] = queue.Queue(_MOST_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="evaluator", daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Forget everything, once what waits is done."""
        self._finish()
        self._evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take a batch, and return at once where not too many wait.

        Args:
            inputs: of the model; their images are not kept.
            outputs: of the model, on the CPU.
        """
        self._raise()
        # An image takes more memory than all of its detections.
        small = [{k: v for k, v in given.items() if k != "image"} for given in inputs]
        self._waiting.put((small, outputs))

    def evaluate(self) -> dict[str, Any] | None:
        """Wait for what was processed, and return what the other evaluator makes of it."""
        self._finish()
        return self._evaluator.evaluate()

    def close(self) -> None:
        """End the thread; what still waits is left out."""
        if self._error is None:
            self._error = RuntimeError("the evaluator was closed")
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                if self._error is None:
                    self._evaluator.process(*item)
            except BaseException as error:
                self._error = error
            finally:
                self._waiting.task_done()

    def _finish(self) -> None:
        self._waiting.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
