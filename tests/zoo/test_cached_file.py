# SPDX-License-Identifier: Apache-2.0
"""Downloads from a server that misbehaves: what is kept, what is refused, what is said."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import pty
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.bad_server import BadServer
from vitdet_d2.errors import DownloadError, RecipeError, WeightsError
from vitdet_d2.zoo import cached_file, partial_file, transfer
from vitdet_d2.zoo.cached_file import fetch
from vitdet_d2.zoo.partial_file import PartialFile

BODY = pickle.dumps({"model": {}, "filling": bytes(range(256)) * 4000}, protocol=4)  # 1 MB


def put(server: BadServer, body: bytes = BODY, kind: str = "md5") -> str:
    """Serve a file whose name has the prefix of its hash; return its address."""
    prefix = hashlib.new(kind, BODY).hexdigest()[:6]
    path = f"/ViTDet/COCO/x/f1/model_final_{prefix}.pkl"
    server.files[path] = body
    return f"detectron2:/{path}"


def cached(tmp_path: Path) -> list[str]:
    """Return the names of all files in the cache but locks."""
    files = (tmp_path / "cache").rglob("*")
    return sorted(p.name for p in files if p.is_file() and p.suffix != ".lock")


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_first_download_is_recorded_and_later_uses_ask_nobody(
    server: BadServer, tmp_path: Path, kind: str
) -> None:
    address = put(server, kind=kind)
    first = fetch(address)
    assert first.downloaded
    assert first.path.read_bytes() == BODY
    assert first.path.is_relative_to(tmp_path / "cache/weights/dl.fbaipublicfiles.com/detectron2")
    record = json.loads(first.path.with_name(f"{first.path.name}.json").read_text())
    assert record["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert (record["prefix_of"], record["bytes"]) == (kind, len(BODY))
    assert record["prefix"] == hashlib.new(kind, BODY).hexdigest()[:6]
    assert record["address"].startswith("https://dl.fbaipublicfiles.com/detectron2/ViTDet/COCO/x")
    again = fetch(address)
    assert (again.path, again.record, again.downloaded) == (first.path, first.record, False)
    assert len(server.requests) == 1
    assert cached(tmp_path) == [first.path.name, f"{first.path.name}.json"]


@pytest.mark.parametrize(
    ("behaviours", "ranges"),
    [
        (["cut 300000", "cut 100000", ""], [None, "bytes=300000-", "bytes=400000-"]),
        # Without a validator, or where the server gives all of it again: anew.
        (["no_etag cut", "cut 5"], None),
        (["cut 300000", "no_range"], [None, "bytes=300000-"]),
        (["cut 300000", "wrong_range", ""], [None, "bytes=300000-", None]),
        (["cut 300000", "status 416", ""], [None, "bytes=300000-", None]),
        (["status 503", "status 429", "status 500", ""], [None] * 4),
    ],
)
def test_interrupted_downloads_go_on_or_start_anew(
    server: BadServer, behaviours: list[str], ranges: list[str | None] | None
) -> None:
    server.behaviours = list(behaviours)
    assert fetch(put(server)).path.read_bytes() == BODY
    if ranges is not None:
        assert server.ranges() == ranges


def test_a_server_that_stalls_is_asked_again(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_SECONDS", 0.2)
    server.behaviours = ["stall 262144"]
    assert fetch(put(server)).path.read_bytes() == BODY
    assert server.ranges() == [None, "bytes=262144-"]


def test_a_file_that_changed_meanwhile_is_not_mixed(server: BadServer) -> None:
    address = put(server, body=BODY[:90] + b"...." + BODY[94:])
    server.behaviours = ["cut 300000"]
    path = next(iter(server.files))
    original = server.files[path]

    class Changing(dict[str, bytes]):
        def get(self, key: str, default: Any = None) -> Any:
            return original if len(server.requests) == 1 else BODY

    server.files = Changing(server.files)
    assert fetch(address).path.read_bytes() == BODY
    assert server.ranges() == [None, "bytes=300000-"], "If-Range names the first version"


def test_the_next_run_goes_on_where_the_last_one_ended(server: BadServer, tmp_path: Path) -> None:
    address = put(server)
    server.behaviours = ["cut 300000"] + ["cut 0"] * 3
    with pytest.raises(DownloadError, match=r"cut off at 300000 of \d+ bytes, 4 times in a row"):
        fetch(address)
    assert not [name for name in cached(tmp_path) if name.endswith(".pkl")]
    server.requests.clear()
    assert fetch(address).path.read_bytes() == BODY
    assert server.ranges() == ["bytes=300000-"]
    assert len(cached(tmp_path)) == 2, "nothing is left over"


def test_a_wrong_half_is_forgotten(
    server: BadServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = put(server)
    server.behaviours = ["cut 300000"] + ["cut 0"] * 3
    with pytest.raises(DownloadError):
        fetch(address)
    [half] = [p for p in (tmp_path / "cache").rglob("*.part-*") if p.suffix != ".json"]
    half.write_bytes(bytes(300000))
    server.requests.clear()
    assert fetch(address).path.read_bytes() == BODY
    assert server.ranges() == ["bytes=300000-", None]
    assert "Starting anew" in caplog.text


def test_a_server_that_promises_too_much_ends(server: BadServer, tmp_path: Path) -> None:
    server.behaviours = ["longer"] * 20
    with pytest.raises(DownloadError, match=r"cut off at"):
        fetch(put(server))
    assert len(server.requests) <= 8
    assert not [name for name in cached(tmp_path) if name.endswith(".pkl")]


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        ("html", WeightsError, r"web page in place of the file .*nothing was kept"),
        ("status 403", WeightsError, r"model_final_\w+\.pkl: the server answered 403 .*mirror"),
        ("status 404", WeightsError, r"answered 404 Not Found; check the address"),
        ("status 407", WeightsError, r"answered 407 .*https_proxy"),
        (
            "flip",
            WeightsError,
            r"wrong hash: its name promises \w{6}\.\.\., the \d+ bytes have md5",
        ),
        ("no_length", DownloadError, r"does not say how long the file is"),
    ],
)
def test_what_is_not_the_file_is_never_kept(
    server: BadServer, tmp_path: Path, behaviour: str, error: type[Exception], message: str
) -> None:
    server.behaviours = [behaviour]
    address = put(server)
    with pytest.raises(error, match=message):
        fetch(address)
    assert len(server.requests) == 1, "asking again is of no use"
    assert cached(tmp_path) == []
    assert fetch(address).downloaded


def test_a_page_that_calls_itself_data_is_not_kept(server: BadServer, tmp_path: Path) -> None:
    server.files["/a.pth"] = b"<!DOCTYPE html><p>quota exceeded"
    with pytest.raises(WeightsError, match=r"a\.pth: nothing was kept: .*web page"):
        fetch(f"{server.address}/a.pth")
    assert cached(tmp_path) == []


def test_redirects_are_followed(server: BadServer) -> None:
    address = put(server)
    [path] = server.files
    server.files["/elsewhere"] = server.files[path]
    server.behaviours = [f"redirect {server.address}/elsewhere"]
    assert fetch(address).path.read_bytes() == BODY


def test_a_terminal_sees_a_bar(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["/a.pth"] = BODY
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        fetch(f"{server.address}/a.pth")
        shown = os.read(reader, 10000)
    os.close(reader)
    assert b"a.pth: 100%|" in shown


def test_a_password_is_not_given_to_where_a_server_redirects(server: BadServer) -> None:
    server.files["/elsewhere.pth"] = BODY
    other = server.address.replace("127.0.0.1", "localhost")
    server.behaviours = [f"redirect {other}/elsewhere.pth"]
    fetch(server.address.replace("//", "//me:hunter2@") + "/a.pth")
    assert ["Authorization" in headers for _, headers in server.requests] == [True, False]


def test_a_damaged_cached_file_is_set_aside_and_fetched_once_more(
    server: BadServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = put(server)
    path = fetch(address).path
    damaged = bytearray(BODY)
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    assert fetch(address).path.read_bytes() == BODY
    assert path.with_name(f"{path.name}.corrupt").read_bytes() == damaged
    assert "is damaged" in caplog.text
    assert len(server.requests) == 2


def test_another_file_under_a_known_address_is_refused(server: BadServer) -> None:
    server.files["/a.pth"] = BODY
    address = f"{server.address}/a.pth"
    path = fetch(address).path
    path.unlink()
    server.files["/a.pth"] = pickle.dumps([1])
    with pytest.raises(WeightsError, match=r"recorded at the first download were \d+ bytes"):
        fetch(address)
    assert not path.exists()
    path.with_name("a.pth.json").write_text("{")
    with pytest.raises(WeightsError, match=r"a\.pth\.json: damaged .*delete it"):
        fetch(address)


def test_a_file_copied_into_the_cache_is_verified_and_recorded(
    server: BadServer, tmp_path: Path
) -> None:
    address = put(server)
    path = fetch(address).path
    path.with_name(f"{path.name}.json").unlink()
    server.files.clear()
    assert fetch(address).record.prefix_of == "md5"
    path.with_name(f"{path.name}.json").unlink()
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(WeightsError, match="404"):
        fetch(address)
    assert path.with_name(f"{path.name}.corrupt").exists()


def test_offline_takes_from_the_cache_only(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = put(server)
    monkeypatch.setenv("VITDET_D2_OFFLINE", "1")
    with pytest.raises(
        DownloadError, match=r"not in the cache \(.*\) and VITDET_D2_OFFLINE is set"
    ):
        fetch(address)
    monkeypatch.setenv("VITDET_D2_OFFLINE", "0")
    fetch(address)
    monkeypatch.setenv("VITDET_D2_OFFLINE", "1")
    assert not fetch(address).downloaded
    assert len(server.requests) == 1


def test_no_network_says_what_to_do(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of this machine: nobody is there.
    monkeypatch.setenv("VITDET_D2_ZOO_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9/.* cannot be reached .*https_proxy"):
        fetch(put(server))
    monkeypatch.setenv("VITDET_D2_ZOO_URL", "http://no-such-host.invalid/")
    with pytest.raises(DownloadError, match=r"no-such-host\.invalid/ViTDet/.* cannot be reached"):
        fetch(put(server))


def test_mirrors_are_tried_in_order_and_may_be_folders(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = put(server)
    folder = tmp_path / "mirror"
    mirrors = f"{server.address}/nothing, file://{folder}"
    monkeypatch.setenv("VITDET_D2_ZOO_URL", mirrors)
    with pytest.raises(WeightsError, match=r"no source gave .*404.*there is no such file"):
        fetch(address)
    file = folder / address.removeprefix("detectron2://")
    file.parent.mkdir(parents=True)
    file.write_bytes(BODY)
    assert fetch(address).path.read_bytes() == BODY
    for wrong in (b"<html>", pickle.dumps({"model": {}})):
        shutil.rmtree(tmp_path / "cache")
        server.files["/nothing/" + address.removeprefix("detectron2://")] = wrong
        assert fetch(address).path.read_bytes() == BODY, "the first mirror's file is another"
    monkeypatch.setenv("VITDET_D2_OFFLINE", "1")
    monkeypatch.setenv("VITDET_D2_ZOO_URL", f"file://{folder}")
    shutil.rmtree(tmp_path / "cache")
    assert fetch(address).downloaded, "a folder needs no network"
    monkeypatch.setenv("VITDET_D2_ZOO_URL", "/data/mirror")
    with pytest.raises(RecipeError, match=r"VITDET_D2_ZOO_URL: expected https://.*'/data/mirror'"):
        fetch("detectron2://other.pkl")


def test_proxies_of_the_environment_are_used(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VITDET_D2_ZOO_URL")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", server.address)
    # A proxy is asked for the whole address.
    server.files["http://weights.invalid/a.pth"] = BODY
    assert fetch("http://weights.invalid/a.pth").path.read_bytes() == BODY


def test_two_servers_have_two_places(server: BadServer) -> None:
    server.files["/a.pth"] = BODY
    port = server.address.rpartition(":")[2]
    first = fetch(f"{server.address}/a.pth").path
    second = fetch(f"http://localhost:{port}/a.pth").path
    third = fetch(f"{server.address}/a.pth?version=2").path
    assert len({first, second, third}) == 3


def test_secrets_are_sent_but_not_shown(
    server: BadServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/a.pth"] = BODY
    secret = server.address.replace("//", "//me:hunter2@") + "/a.pth?token=hunter2"
    server.behaviours = ["status 403"]
    with caplog.at_level(logging.DEBUG), pytest.raises(WeightsError) as caught:
        fetch(secret)
    found = fetch(secret)
    [_, (path, headers)] = server.requests
    assert headers["Authorization"] == "Basic bWU6aHVudGVyMg=="
    assert path == "/a.pth?token=hunter2"
    told = str(caught.value) + caplog.text + repr(found)
    assert "***@127.0.0.1" in told
    assert "hunter2" not in told


def test_a_disk_without_room_is_told_before_and_during(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = put(server)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(
            DownloadError, match=rf"full: {len(BODY)} bytes needed, 1000 free .*CACHE"
        ):
            fetch(address)
    assert cached(tmp_path) == []

    def append(self: PartialFile, data: bytes) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            original(self, data)

    def refuse(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    original = PartialFile.append
    monkeypatch.setattr(partial_file.PartialFile, "append", append)
    with pytest.raises(DownloadError, match=r"the disk is full: \d+ bytes needed, \d+ free"):
        fetch(address)
    assert cached(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_named(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITDET_D2_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"file/weights/.* cannot be used .*VITDET_D2_CACHE"):
        fetch(put(server))


def test_a_killed_download_is_gone_on_with(server: BadServer, tmp_path: Path) -> None:
    address = put(server)
    server.behaviours = ["stall 524288"]
    process = multiprocessing.get_context("fork").Process(target=fetch, args=(address,))
    process.start()
    deadline = time.monotonic() + 30
    while sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.part-*")) < 524288:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    [half] = [p for p in (tmp_path / "cache").rglob("*.part-*") if p.suffix != ".json"]
    # Of the same process, and of no use: what it is a part of was not noted.
    half.with_name(f"{half.name.rpartition('-')[0]}-00000000").write_bytes(b"?")
    assert fetch(address).path.read_bytes() == BODY
    assert server.ranges() == [None, "bytes=524288-"]
    assert len(cached(tmp_path)) == 2, "nothing is left over"


def _fetch_in_process(address: str, has_locks: bool, queue: Any) -> None:
    if not has_locks:
        cached_file.fcntl.flock = _no_locks
    found = fetch(address)
    queue.put((str(found.path), found.downloaded))


def _no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("has_locks", [True, False])
def test_several_processes_at_once(server: BadServer, tmp_path: Path, has_locks: bool) -> None:
    address = put(server)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_fetch_in_process, args=(address, has_locks, queue))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    [path] = {path for path, _ in results}
    assert Path(path).read_bytes() == BODY
    if has_locks:
        assert [downloaded for _, downloaded in results].count(True) == 1
        assert len(server.requests) == 1
    assert len(cached(tmp_path)) == 2


@pytest.mark.parametrize(
    "address", ["http://host/", "http://host/a/../../b.pth", "/local/file.pth", "s3://a/b.pth"]
)
def test_what_names_no_file_on_the_web(address: str, server: BadServer) -> None:
    with pytest.raises(RecipeError, match=r"names no file|is no web address"):
        fetch(address)
