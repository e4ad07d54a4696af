# SPDX-License-Identifier: Apache-2.0
"""Attacks and 10,000 random pickles: none runs anything, all end in data or an error."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import resource
import signal
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from tests.checks.bombs import BOMBS, entry, npz, safetensors
from tests.checks.hostile_pickles import attacks, fuzzed, inside
from vitdet_d2.checks import npz_file, safe_pickle, torch_file
from vitdet_d2.checks.weights_file import read_weights_file
from vitdet_d2.errors import WeightsError

ATTACKS = ["os.system", "eval", "nested getattr", "codecs", "__reduce__", "BUILD", "memo"]
# What a file could do: each passes through one of Python's own audit events.
_WATCHED = ("os.", "subprocess.", "exec", "compile", "import", "socket.", "shutil.", "ctypes.")


class Watch:
    """Collects what Python was asked to do while it is on; a hook cannot be removed."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = (
            event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        )
        if writes or event.startswith(_WATCHED):
            self.events.append(f"{event} {arguments}"[:200])


@pytest.fixture(scope="module")
def watch() -> Watch:
    # What is imported at the first use of it only.
    assert torch_file.__name__
    for encoding in ("raw_unicode_escape", "cp437"):
        b"a".decode(encoding)
    return Watch()


@pytest.mark.parametrize("form", ["pickle", "zip", "torchscript", "legacy"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_run_nothing_and_are_named(
    attack: str, form: str, tmp_path: Path, watch: Watch
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "weights.pth"
    path.write_bytes(inside(attacks(marker)[attack], form))
    watch.events.clear()
    watch.on = True
    try:
        with pytest.raises(
            WeightsError, match=r"refused, the file asks for .*`[\w.]+`.*safetensor"
        ):
            read_weights_file(path)
    finally:
        watch.on = False
    assert not marker.exists()
    assert not watch.events


def test_the_watch_notices_what_python_itself_runs(tmp_path: Path, watch: Watch) -> None:
    watch.events.clear()
    watch.on = True
    pickle.loads(attacks(tmp_path / "marker")["__reduce__"])
    watch.on = False
    assert any(event.startswith("os.mkdir") for event in watch.events)
    assert (tmp_path / "marker").is_dir()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_real(attack: str, tmp_path: Path) -> None:
    # Without the guard each of them reaches what it names: os.mkdir, eval and so on.
    reached = []

    class Open(pickle.Unpickler):
        def find_class(self, module: str, attribute: str) -> Any:
            reached.append(f"{module}.{attribute}")
            return lambda *_: reached.append("called") or self

    program = attacks(tmp_path / "marker")[attack]
    with contextlib.suppress(pickle.UnpicklingError, AttributeError, TypeError):
        Open(io.BytesIO(program)).load()
    assert "called" in reached or attack == "BUILD"


def hang(_signal: int, _frame: FrameType | None) -> None:
    raise AssertionError("a file is read for more than 20 seconds")


@pytest.fixture
def alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, hang)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_10000_fuzzed_pickles_end_in_data_or_an_error(tmp_path: Path, watch: Watch) -> None:
    path = tmp_path / "fuzz.pth"
    outcomes = {"data": 0, "refused": 0, "damaged": 0}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch.events.clear()
    # Written over and over: file systems write a file out that is emptied or replaced.
    with path.open("wb", buffering=0) as file:
        for program in fuzzed(10_000, seed=7):
            os.pwrite(file.fileno(), program, 0)
            file.truncate(len(program))
            signal.alarm(20)
            watch.on = True
            # Anything but data or this error fails the test.
            try:
                read_weights_file(path)
                outcomes["data"] += 1
            except WeightsError as error:
                outcomes["refused" if "refused" in str(error) else "damaged"] += 1
            finally:
                watch.on = False
    assert not watch.events
    assert min(outcomes.values()) > 100, f"the programs are too much alike: {outcomes}"
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert growth < 300 * 1024, "a small file took hundreds of MB"


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_end_at_once(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(BOMBS[bomb])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(20)
    with pytest.raises(WeightsError, match=r"bomb\.pkl"):
        read_weights_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 * 1024


def test_arrays_of_zeros_do_not_unfold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(npz((1 << 18,), bytes(1 << 20), how=zipfile.ZIP_DEFLATED))
    assert len(read_weights_file(path)["a"]) == 1 << 18, "small enough to be harmless"
    monkeypatch.setattr(npz_file, "_FREE_BYTES", 1000)
    with pytest.raises(WeightsError, match=r"refused, \d{4} bytes would become 1048\d{3}"):
        read_weights_file(path)


def test_what_is_only_a_value_cannot_be_called(tmp_path: Path) -> None:
    path = tmp_path / "call.pkl"
    path.write_bytes(b"\x80\x04}X\x01\x00\x00\x00acnumpy\nfloat32\n\x8c\x011\x85Rs.")
    with pytest.raises(WeightsError, match=r"asks for the .* `numpy\.float32\(\.\.\.\)`"):
        read_weights_file(path)


def test_tensors_have_few_axes(tmp_path: Path) -> None:
    # The product of three hundred thousand numbers takes a minute.
    path = tmp_path / "bomb.safetensors"
    for count, message in ((64, "is not where the header says"), (65, "has an impossible shape")):
        path.write_bytes(safetensors({"a": entry([2] * count, 4)}))
        with pytest.raises(WeightsError, match=message):
            read_weights_file(path)


class SlowArray:
    """An array of numpy, with more axes than numpy has."""

    def __init__(self, axes: int) -> None:
        self.axes = axes

    def __reduce__(self) -> tuple[Any, ...]:
        state = (1, (1,) * self.axes, np.dtype("float32"), False, bytes(4))
        return (*np.empty(0).__reduce__()[:2], state)


def test_pickled_tensors_and_arrays_have_few_axes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros([1] * 64)}, path)
    assert read_weights_file(path)["a"].shape == (1,) * 64
    torch.save({"a": torch.zeros([1] * 65)}, path)
    with pytest.raises(WeightsError, match="a tensor of an impossible shape"):
        read_weights_file(path)
    path.write_bytes(pickle.dumps({"a": SlowArray(64)}))
    assert read_weights_file(path)["a"].shape == (1,) * 64
    path.write_bytes(pickle.dumps({"a": SlowArray(65)}))
    with pytest.raises(WeightsError, match="an array of an impossible shape"):
        read_weights_file(path)


def test_steps_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.pkl"
    path.write_bytes(b"\x80\x02" + b"N0" * 1000 + b"}.")
    assert read_weights_file(path) == {}
    monkeypatch.setattr(safe_pickle, "MAX_STEPS", 1000)
    with pytest.raises(WeightsError, match="more than 1000 steps"):
        read_weights_file(path)
