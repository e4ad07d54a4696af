# SPDX-License-Identifier: Apache-2.0
"""What one measuring process is asked to do, and what it answers; both are plain JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

from vitdet_d2.errors import UserError

Phase = Literal["inference", "training"]
Part = Literal["model", "backbone"]
Precision = Literal["recipe", "off", "bf16", "fp16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement.

    Attributes:
        recipe: path or name.
        overrides: changes of the recipe.
        phase: forward passes at test, or whole training steps.
        part: the whole detector, or its backbone (with neck) alone.
        image_size: ``(H, W)`` that goes into the backbone, in pixels.
        batch: images at once.
        device: as torch names it.
        amp: what autocast computes in; "recipe": in training what the recipe says, on a GPU, and
            at test nothing, as in evaluation.
        warmup: runs before the clock starts, at least 1.
        repeats: runs whose median counts, at least 1.
        num_objects: in every training image; None: as many as can be positive regions, so that the
            heads have their nominal load.
        memory_limit: bytes that the run may take; None: what there is.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    phase: Phase
    part: Part = "model"
    image_size: tuple[int, int]
    batch: int = 1
    device: str = "cpu"
    amp: Precision = "recipe"
    warmup: int = 1
    repeats: int = 1
    num_objects: int | None = None
    memory_limit: int | None = None

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what `to_json` wrote.

        Args:
            text: of `to_json`.
        """
        values = json.loads(text)
        for name in ("overrides", "image_size"):
            values[name] = tuple(values[name])
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a job: numbers, or why there are none.

    Attributes:
        seconds: median time of a run on the whole batch.
        peak_bytes: most memory that model, optimizer and maps took together; None where the
            system does not tell.
        precision: what was computed in: "fp32", or that of autocast.
        hardware: what it ran on.
        detections: found in the last run at test, in all images; None in training.
        out_of_memory: the run did not fit.
        need_bytes: with ``out_of_memory``: memory that it takes at least.
        error: what else went wrong, in one line.
    """

    seconds: float | None = None
    peak_bytes: int | None = None
    precision: str | None = None
    hardware: str | None = None
    detections: int | None = None
    out_of_memory: bool = False
    need_bytes: int | None = None
    error: str | None = None

    @property
    def failure(self) -> str | None:
        """Why there are no numbers, in a few words; None where there are."""
        if self.out_of_memory:
            need = "" if self.need_bytes is None else f" (needs > {gigabytes(self.need_bytes)})"
            return f"out of memory{need}"
        return self.error

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Read what `to_json` wrote.

        Args:
            text: of `to_json`.
        """
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


def reason(error: Exception) -> str:
    """Return in one line why something failed; with its type, where it is not a message for users.

    Args:
        error: of any kind.
    """
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def gigabytes(count: int) -> str:
    """Return a number of bytes for people, in units of 10^9.

    Args:
        count: bytes.
    """
    return f"{count / 1e9:.2f} GB"
