# SPDX-License-Identifier: Apache-2.0
"""The command ``vitdet``, and what ``train_net.py`` calls.

Exit codes: 0 done, 1 the run failed, 2 wrong usage or recipe, 3 bad data or weights, 130 / 143
stopped by a signal after saving. An error for the user is one line, ``error: ...``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

import vitdet_d2
from vitdet_d2.engine.commands import COMMANDS, train, usage
from vitdet_d2.errors import RecipeError, StoppedBySignal, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: without the program's name; that of the process by default.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else RecipeError.exit_code
    if arguments[0] == "--version":
        print(f"vitdet_d2 {vitdet_d2.__version__}")
        return 0
    return _guarded(lambda: _dispatch(arguments[0], arguments[1:]), arguments)


def main_train(argv: Sequence[str] | None = None) -> int:
    """Run ``train_net.py``: the same as ``vitdet train``.

    Args:
        argv: without the program's name; that of the process by default.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    return _guarded(lambda: train(arguments, "train_net.py"), arguments)


def _dispatch(word: str, argv: Sequence[str]) -> None:
    if word not in COMMANDS:
        raise RecipeError(f"unknown command {word!r}; there are {', '.join(COMMANDS)}")
    COMMANDS[word].run(argv, f"vitdet {word}")


def _guarded(command: Callable[[], None], argv: Sequence[str]) -> int:
    """Run a command; turn errors for users into a line and an exit code."""
    # fvcore compiles at import what is not used here; nobody who reads the warning can act on it.
    # The rest of such warnings is up to `run_rank`, which runs in every process.
    warnings.filterwarnings("ignore", r".*torch\.jit\.script", FutureWarning)
    try:
        command()
    except (UserError, StoppedBySignal) as error:
        return _report(error, error.exit_code, "--debug" in argv)
    except KeyboardInterrupt:
        print("\nerror: interrupted; nothing was saved", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has left. Python would complain once more at its end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from vitdet_d2.engine.launch import RankFailedError

        if not isinstance(error, RankFailedError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _report(error: UserError | StoppedBySignal, code: int, debug: bool) -> int:
    # Under torchrun every process fails with the same error; one of them says so.
    if os.environ.get("RANK", "0") == "0" or debug:
        if debug:
            traceback.print_exception(error)
        word = "stopped" if isinstance(error, StoppedBySignal) else "error"
        print(f"{word}: {' '.join(str(error).split())}", file=sys.stderr)
    return code
