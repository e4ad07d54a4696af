# SPDX-License-Identifier: Apache-2.0
"""The only file that imports Optuna: storages, the studies in them, and writing trials."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vitdet_d2.errors import RecipeError, UserError

if TYPE_CHECKING:
    import optuna

T = TypeVar("T")
logger = logging.getLogger(__name__)

DATABASE = "study.db"
# SQLite locks the whole file while one worker writes.
_SQLITE_WAIT_SECONDS = 60
# Between attempts to open an empty storage, whose twenty tables others are making.
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# A database server that is started anew.
_RETRY_PAUSES = (1.0, 5.0, 20.0, 60.0)
_EXISTS_ALREADY = re.compile(r"already exists|duplicate|UNIQUE constraint", re.IGNORECASE)


def require_optuna() -> None:
    """Make sure that Optuna is here.

    Raises:
        RecipeError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            f"tuning studies are kept by Optuna, which cannot be imported ({error}); run: "
            "pip install 'vitdet_d2[tune]'"
        ) from error


def folder_url(folder: Path) -> str:
    """Return the address of the SQLite storage in an output folder.

    Args:
        folder: of the study.
    """
    return f"sqlite:///{folder.resolve() / DATABASE}"


def shown_url(url: str) -> str:
    """Return an address without its password.

    Args:
        url: of a storage.
    """
    return re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", url)


def open_study(url: str, name: str) -> optuna.Study:
    """Return a study of a storage; it is made where there is none.

    Args:
        url: of a relational database, as SQLAlchemy reads it.
        name: of the study.

    Raises:
        UserError: the storage cannot be reached or used.
    """
    import optuna

    with _reachable(url):
        return optuna.create_study(
            study_name=name,
            storage=_storage(url),
            direction="maximize",
            load_if_exists=True,
            # Never asked: cells are chosen by the protocol and put in whole.
            sampler=optuna.samplers.RandomSampler(seed=0),
        )


def load_study(url: str, name: str | None) -> optuna.Study:
    """Return a study that is there.

    Args:
        url: as in `open_study`; no SQLite file is made.
        name: of the study; None: the only one.

    Raises:
        RecipeError: there is none of the name, or several and no name.
        UserError: as `open_study`.
    """
    import optuna

    path = url.removeprefix("sqlite:///").partition("?")[0]
    if url.startswith("sqlite:///") and not Path(path).is_file():
        raise RecipeError(f"there is no tuning study in {path}: no such file")
    with _reachable(url):
        storage = _storage(url)
        names = sorted(optuna.get_all_study_names(storage))
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            asked = "name one of them" if name is None else f"not {name}"
            raise RecipeError(
                f"{shown_url(url)} holds {len(names)} tuning studies "
                f"({', '.join(names) or 'none'}): {asked}"
            )
        return optuna.load_study(
            study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(seed=0)
        )


def patiently(call: Callable[[], T], pauses: Sequence[float] = _RETRY_PAUSES) -> T:
    """Return what a call of a storage returns, again and again where the storage is in trouble.

    Args:
        call: that may be repeated.
        pauses: in seconds, before each new attempt.

    Raises:
        UserError: the storage stays in trouble.
    """
    from optuna.exceptions import StorageInternalError

    for pause in pauses:
        try:
            return call()
        except StorageInternalError as error:
            logger.warning("Storage in trouble, next attempt in %g s: %s", pause, error.__cause__)
            time.sleep(pause)
    try:
        return call()
    except StorageInternalError as error:
        raise UserError(
            f"the storage of the study does not answer any more: {error.__cause__ or error}; the "
            "same command goes on with the study"
        ) from error


def add_claim(study: optuna.Study, params: dict[str, float], attributes: dict[str, str]) -> None:
    """Put in a trial that runs, with all that belongs to it, by one transaction.

    Args:
        study: of a storage.
        params: learning rate ``lr``, ``weight_decay`` and ``drop_path``.
        attributes: of the trial.
    """
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.exceptions import StorageInternalError
    from optuna.trial import TrialState, create_trial

    # Every trial of a study should have the same; a value outside of them is refused.
    distributions: dict[str, BaseDistribution] = {
        "lr": FloatDistribution(sys.float_info.min, sys.float_info.max, log=True),
        "weight_decay": FloatDistribution(0.0, sys.float_info.max),
        "drop_path": FloatDistribution(0.0, 1.0),
    }
    trial = create_trial(
        state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attributes
    )
    with contextlib.suppress(StorageInternalError):
        study.add_trial(trial)


def end_claim(
    study: optuna.Study,
    number: int,
    state: Literal["COMPLETE", "FAIL"],
    value: float | None = None,
) -> bool:
    """End a trial that runs; return whether it still did.

    Args:
        study: of a storage.
        number: of the trial.
        state: afterwards.
        value: of a complete one.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        patiently(lambda: study.tell(number, value, state=TrialState[state]))
    except (ValueError, UpdateFinishedTrialError):
        # Ended by another worker, to whom this one seemed gone.
        return False
    return True


def _storage(url: str) -> optuna.storages.RDBStorage:
    """Open a storage; its tables are made where there are none.

    Workers that come to an empty database together all find no tables and all make them. Those
    that come second fail, and find them the next time.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = {}
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": _SQLITE_WAIT_SECONDS}}
    pauses = iter(_PAUSES)
    while True:
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        # Each database has its own class and words for it.
        except Exception as error:
            pause = next(pauses, None)
            if pause is None or not _EXISTS_ALREADY.search(str(error)):
                raise
            time.sleep(pause)


@contextlib.contextmanager
def _reachable(url: str) -> Iterator[None]:
    """Turn what database drivers raise into an error that names the storage.

    Raises:
        UserError: the storage cannot be reached or used.
    """
    try:
        yield
    except UserError:
        raise
    # Each driver has errors of its own, which share no class: this block does nothing else.
    except Exception as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the storage {shown_url(url)} cannot be used: {reason}; expected the address of a "
            "database, such as sqlite:////shared/study.db or postgresql://USER:PASSWORD@HOST/NAME, "
            "its driver installed"
        ) from error
