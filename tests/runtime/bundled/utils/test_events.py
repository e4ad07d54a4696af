# SPDX-License-Identifier: Apache-2.0
"""The storage of a run's numbers, and its writers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)


def test_storage_in_use_is_the_innermost() -> None:
    assert not has_event_storage()
    with pytest.raises(AssertionError, match="inside `with EventStorage"):
        get_event_storage()
    with EventStorage() as outer:
        with EventStorage(5) as inner:
            assert get_event_storage() is inner
            assert inner.iter == inner.iteration == 5
        assert get_event_storage() is outer
    assert not has_event_storage()


def test_scalars_have_history_scope_and_hint() -> None:
    storage = EventStorage()
    for value in (1.0, 3.0, 5.0):
        storage.put_scalars(loss=torch.tensor(value), lr=0.1 * value, smoothing_hint=True)
        storage.step()
    with storage.name_scope("val/"):
        storage.put_scalar("ap", 2, smoothing_hint=False, cur_iter=7)
    assert storage.latest()["val/ap"] == (2.0, 7)
    assert storage.history("loss").values() == [(1.0, 0), (3.0, 1), (5.0, 2)]
    assert storage.latest_with_smoothing_hint(2)["loss"] == (4.0, 2)
    assert storage.latest_with_smoothing_hint(20)["loss"] == (3.0, 2)
    assert storage.smoothing_hints()["val/ap"] is False
    with pytest.raises(AssertionError, match="val/ap was put with smoothing_hint=False before"):
        storage.put_scalar("val/ap", 1.0)
    with pytest.raises(KeyError, match="no scalar 'los' was put; known"):
        storage.history("los")


def test_scope_ends_with_an_error() -> None:
    storage = EventStorage()
    with pytest.raises(ZeroDivisionError, match="division"), storage.name_scope("a"):
        1 / 0  # noqa: B018
    storage.put_scalar("x", 1)
    assert "x" in storage.latest()


def test_window_is_in_iterations_not_in_samples() -> None:
    storage = EventStorage()
    for iteration in range(0, 50, 10):
        storage.put_scalar("a", iteration, cur_iter=iteration)
    assert storage.count_samples("a", 20) == 2
    assert storage.count_samples("a", 21) == 3
    assert storage.count_samples("a", 1000) == 5


def test_json_writer_writes_each_value_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    with EventStorage(10) as storage:
        writer = JSONWriter(str(file), window_size=2)
        storage.put_scalar("loss", 1.0)
        storage.put_scalar("late", 2.0, cur_iter=12)
        writer.write()
        writer.write()
        storage.iter = 13
        storage.put_scalar("loss", 5.0)
        writer.write()
        writer.close()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [
        {"iteration": 10, "loss": 1.0},
        {"iteration": 12, "late": 2.0},
        {"iteration": 13, "loss": 5.0},
    ]
    assert file.read_text().startswith('{"iteration": 10, "loss": 1.0}\n')


def test_printer_shows_what_matters(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with EventStorage(9) as storage:
        storage.put_scalars(total_loss=0.25, other=3.0)
        storage.put_scalar("lr", 1e-4, smoothing_hint=False)
        storage.put_scalar("time", 2.0)
        storage.put_scalar("data_time", 0.5)
        CommonMetricPrinter(max_iter=100).write()
        line = caplog.records[-1].getMessage()
        for part in (
            "eta: 0:03:00  iter: 9  total_loss: 0.25  ",
            "time: 2.0000  last_time: 2.0000  data_time: 0.5000  last_data_time: 0.5000  lr",
        ):
            assert part in line
        assert "other" not in line
        assert storage.latest()["eta_seconds"] == (180.0, 9)
        storage.iter = 100
        CommonMetricPrinter(max_iter=100).write()
        assert len(caplog.records) == 1


def test_printer_needs_nothing_but_the_iteration(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with EventStorage(3):
        CommonMetricPrinter().write()
    assert caplog.records[-1].getMessage().strip().startswith("iter: 3  lr: N/A")
    assert caplog.records[-1].name == "detectron2.utils.events"


def test_tensorboard_gets_scalars_pictures_and_histograms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, object]] = []

    class Recorder:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, (value, step)))

        def add_image(self, name: str, image: torch.Tensor, step: int) -> None:
            calls.append((name, (tuple(image.shape), step)))

        def add_histogram_raw(
            self, *, tag: str, num: int, bucket_counts: list[float], **_: object
        ) -> None:
            calls.append((tag, (num, sum(bucket_counts))))

        def close(self) -> None:
            calls.append(("closed", None))

    writer = TensorboardXWriter(str(tmp_path))
    writer.close()  # nothing written, nothing made
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(writer, "_writer", Recorder(), raising=False)
    with EventStorage(4) as storage:
        storage.put_scalar("loss", 1.5)
        storage.put_image("picture", torch.zeros(3, 2, 2))
        storage.put_histogram("weights", torch.arange(6.0).reshape(2, 3), bins=3)
        writer.write()
        writer.write()
        writer.close()
    assert calls == [
        ("loss", (1.5, 4)),
        ("picture", ((3, 2, 2), 4)),
        ("weights", (6, 6.0)),
        ("closed", None),
    ]


def test_writer_base_class_leaves_write_to_others() -> None:
    with pytest.raises(NotImplementedError, match="must define write"):
        EventWriter().write()
    EventWriter().close()


def test_scalars_may_be_put_while_others_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``async_write_metrics`` a thread does so; here each look at a scalar puts another."""
    storage = EventStorage()
    storage.put_scalars(loss=1.0, time=2.0)
    count = EventStorage.count_samples

    def count_and_put(self: EventStorage, name: str, window_size: int = 20) -> int:
        self.put_scalar(f"{name}_of_the_thread", 3.0)
        return count(self, name, window_size)

    monkeypatch.setattr(EventStorage, "count_samples", count_and_put)
    assert set(storage.latest_with_smoothing_hint()) == {"loss", "time"}
    for name in storage.histories():
        storage.put_scalar(f"{name}_again", 1.0)
    assert len(storage.latest()) == 8
