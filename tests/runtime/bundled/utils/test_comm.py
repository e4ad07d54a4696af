# SPDX-License-Identifier: Apache-2.0
"""Communication: alone, and between two processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm


def test_alone_everything_is_trivial() -> None:
    assert (comm.get_world_size(), comm.get_rank(), comm.is_main_process()) == (1, 0, True)
    assert (comm.get_local_rank(), comm.get_local_size()) == (0, 1)
    comm.synchronize()
    assert comm.all_gather("x") == ["x"]
    assert comm.gather("x") == ["x"]
    values = {"a": torch.tensor(2.0)}
    assert comm.reduce_dict(values) is values
    np.random.seed(3)
    expected = np.random.randint(2**31)
    np.random.seed(3)
    assert comm.shared_random_seed() == expected
    with pytest.raises(RuntimeError, match=r"comm.create_local_process_group\(\)"):
        comm.get_local_process_group()


def _rank(rank: int, store: str, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    comm.create_local_process_group(1)
    comm.create_local_process_group(1)  # again: nothing happens
    try:
        comm.create_local_process_group(2)
    except RuntimeError as error:
        message = str(error)
    np.random.seed(rank)
    order = ["a", "b"] if rank == 0 else ["b", "a"]
    values = {name: torch.tensor(float(rank + (name == "b") * 10)) for name in order}
    comm.synchronize()
    report = {
        "place": (comm.get_rank(), comm.get_world_size(), comm.get_local_rank()),
        "local_size": comm.get_local_size(),
        "again": message,
        "all": comm.all_gather({"rank": rank}),
        "gathered": comm.gather(rank, dst=1),
        "seed": comm.shared_random_seed(),
        "mean": {k: float(v) for k, v in comm.reduce_dict(values).items()},
        "sum": {k: float(v) for k, v in comm.reduce_dict(values, average=False).items()},
    }
    results.put(report)
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(rank, str(tmp_path / "store"), results), daemon=True)
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    first, second = sorted((results.get(timeout=60) for _ in ranks), key=lambda r: r["place"])
    for process in ranks:
        process.join(timeout=60)
    assert (first["place"], second["place"]) == ((0, 2, 0), (1, 2, 0))
    assert first["local_size"] == 1
    assert first["again"] == "a local process group of 1 exists already; asked for 2"
    assert first["all"] == second["all"] == [{"rank": 0}, {"rank": 1}]
    assert (first["gathered"], second["gathered"]) == ([], [0, 1])
    assert first["seed"] == second["seed"]
    assert first["mean"] == {"a": 0.5, "b": 10.5}
    assert first["sum"] == {"a": 1.0, "b": 21.0}
