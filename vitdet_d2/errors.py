# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on, each with the exit code of the command line.

Every message is one line that names the thing, what was expected, what was found, and the cure.
Exit codes: 1 the run failed, 2 wrong usage or recipe, 3 bad data or weights, 130 / 143 stopped by
a signal after saving.
"""

from __future__ import annotations

import signal


class UserError(ValueError):
    """A run that cannot go on, with a message for the person who started it."""

    exit_code = 1


class RecipeError(UserError):
    """Wrong usage: a command-line argument, an override or a recipe."""

    exit_code = 2


class DataError(UserError):
    """A data set, an annotation file or an image that cannot be used."""

    exit_code = 3


class WeightsError(UserError):
    """A checkpoint that is missing, damaged, unsafe, or does not fit the model."""

    exit_code = 3


class DownloadError(UserError):
    """A file that cannot be fetched now: no network, a server in trouble, or a full disk."""


class ArgumentError(ValueError, AssertionError):
    """A wrong argument where Detectron2 asserts: callers that catch either kind catch this one."""


class StoppedBySignal(RuntimeError):  # noqa: N818  (an outcome, not a fault)
    """A run that a signal ended after its state was saved."""

    def __init__(self, signum: int, message: str) -> None:
        """Remember the signal, whose number decides the exit code.

        Args:
            signum: the signal's number, for example ``signal.SIGTERM``.
            message: what was saved, and how to continue.
        """
        super().__init__(message)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """130 for an interrupt, 143 for a termination, as shells report them."""
        return 128 + int(signal.Signals(self.signum))
