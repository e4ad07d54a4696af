# SPDX-License-Identifier: Apache-2.0
"""Weights files: every honest format is read, nothing in a hostile one is run."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gzip
import io
import os
import pickle
import random
import tarfile
import tempfile
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet_d2.checks import safe_pickle
from vitdet_d2.checks.weights_file import read_weights_file, sniff
from vitdet_d2.errors import WeightsError

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(4, dtype=">i4"),
    "half": np.ones(3, dtype=np.float16),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 4)),
    "scalar": np.array(3),
}


TENSORS_IN = ("module", "optimizer", "torch_rng", "dino_loss")


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays(protocol: int, tmp_path: Path) -> None:
    content = {"model": OrderedDict(ARRAYS), "__author__": "someone", "step": np.float64(2.5)}
    content["again"] = content["model"]["float32"]
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = read_weights_file(path)
    for name, expected in ARRAYS.items():
        array = loaded["model"][name]
        assert array.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(array, expected)
        assert array.flags.writeable
    assert loaded["step"] == 2.5
    assert type(loaded["step"]) is float
    assert loaded["again"] is loaded["model"]["float32"]


def test_pickles_of_python_2(tmp_path: Path) -> None:
    # Python 2 writes an array's bytes as text of the old kind, and names numpy.core.
    raw = np.arange(2, dtype="<f4").tobytes()
    program = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt"
        b"R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08" + raw + b"tbs."
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(program)
    assert read_weights_file(path)["w"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("zipped", [True, False])
def test_training_files_with_settings_and_numpy_values(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "train.pth"
    content = {
        "model": nn_state(),
        "args": argparse.Namespace(lr=0.1, decay=np.float32(2)),
        "epoch": np.int64(3),
        "history": np.arange(3),
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = read_weights_file(path)
    assert sniff(path) == ("torch_zip" if zipped else "torch_legacy")
    assert loaded["args"] == {"lr": 0.1, "decay": 2.0}
    assert loaded["epoch"] == 3
    assert loaded["history"].tolist() == [0, 1, 2]
    assert torch.equal(loaded["model"]["weight"], content["model"]["weight"])


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_all_that_training_scripts_keep_is_read(form: str, tmp_path: Path) -> None:
    """As MAE, DeiT, BEiT, DINO, iBOT and DeepSpeed save it, and what people add."""
    path = tmp_path / "checkpoint.pth"
    linear = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=np.float64(1e-3))
    linear(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(
        lr=0.1, output_dir=Path("/data/run"), device=torch.device("cuda", 1), dtype=torch.float16,
        betas=(0.9, 0.95), nested=argparse.Namespace(blr=np.float32(0.5)), names={"a"}, clip=None,
    )  # fmt: skip
    content = {
        "module": OrderedDict(linear.state_dict()),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"milestones": Counter([3, 3]), "groups": defaultdict(list, a=[1])},
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "args": arguments,
        "epoch": np.int64(7),
        "max_accuracy": np.float64(81.5),
        "numpy_rng": np.random.get_state(),
        "python_rng": random.getstate(),
        "torch_rng": torch.get_rng_state(),
        "started": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "took": datetime.timedelta(hours=3),
        "param_shapes": [OrderedDict(weight=torch.Size([4, 3]))],
        "csr_tensor_module_names": set(),
        "dino_loss": OrderedDict(center=torch.zeros(1, 8)),
    }
    if form == "pickle":
        content = {k: v for k, v in content.items() if k not in TENSORS_IN}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    loaded = read_weights_file(path)
    assert list(loaded) == list(content)
    assert loaded["args"] == {
        "lr": 0.1, "output_dir": "/data/run", "device": "cuda:1", "dtype": "torch.float16",
        "betas": (0.9, 0.95), "nested": {"blr": 0.5}, "names": ["a"], "clip": None,
    }  # fmt: skip
    assert (loaded["epoch"], loaded["max_accuracy"]) == (7, 81.5)
    assert loaded["numpy_rng"][1].tolist() == content["numpy_rng"][1].tolist()
    assert loaded["python_rng"] == content["python_rng"]
    assert loaded["started"] == "2026-01-02T03:04:05"
    assert loaded["param_shapes"] == [{"weight": (4, 3)}]
    if form != "pickle":
        assert torch.equal(loaded["module"]["weight"], linear.weight)
        moment = loaded["optimizer"]["state"][0]["exp_avg"]
        assert torch.equal(moment, optimizer.state_dict()["state"][0]["exp_avg"])


def nn_state() -> dict[str, torch.Tensor]:
    return dict(torch.nn.Linear(3, 4).state_dict())


def payloads(marker: Path) -> dict[str, Any]:
    target = str(marker)
    return {
        "os": Call(os.mkdir, target),
        "eval": Call(eval, f"__import__('os').mkdir({target!r})"),
        "exec": Call(exec, f"__import__('os').mkdir({target!r})"),
        "import": Call(__import__, "os"),
        "open": Call(open, target, "w"),
        "partial": Call(Call, os.mkdir, target),
    }


@pytest.mark.parametrize("name", ["os", "eval", "exec", "import", "open", "partial"])
@pytest.mark.parametrize("form", ["pkl", "pth", "legacy"])
def test_hostile_programs_are_named_and_not_run(name: str, form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"file.{form}"
    payload = {"model": payloads(marker)[name]}
    if form == "pkl":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "pth")
    with pytest.raises(WeightsError, match=r"refused, the file asks for .*`[\w.]+`"):
        read_weights_file(path)
    assert not marker.exists()


RAW = {
    "memo far away": b"\x80\x02}r\xff\xff\xff\x7f0N.",
    "bytes of a tebibyte": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",
    "array memory of a tebibyte": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
    "frame of an exbibyte": b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b".",
    "registered object": b"\x80\x02\x82\x01.",
    "external object": b"\x80\x02K\x01Q.",
    "state for a function": b"\x80\x02c_codecs\nencode\n}b.",
    "state for a class": b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "attribute of a module": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
    "array without data": b"\x80\x02cnumpy\nndarray\n.",
    "objects in an array": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.",
    "nothing": b"\x80\x02.",
    "cut off": pickle.dumps({"a": np.arange(100)}, 2)[:90],
    "unknown opcode": b"\x80\x02\xfe.",
}


@pytest.mark.parametrize("name", RAW)
def test_hostile_and_damaged_pickles_fail_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(RAW[name])
    with pytest.raises(WeightsError, match=r"bomb\.pkl"):
        read_weights_file(path)


def test_repeated_text_cannot_outgrow_the_file(tmp_path: Path) -> None:
    text = b"X" + (1000).to_bytes(4, "little") + b"a" * 1000 + b"q\x01"
    again = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    path = tmp_path / "bomb.pkl"
    path.write_bytes(b"\x80\x02" + text + again * 400 + b".")
    with pytest.raises(WeightsError, match="larger than the file"):
        read_weights_file(path)


def test_deep_nests_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.pkl"
    path.write_bytes(b"\x80\x02]" + b"]" * 5000 + b"a" * 5000 + b".")
    with pytest.raises(WeightsError, match="nested too deeply"):
        read_weights_file(path)


def test_a_list_in_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "loop.pkl"
    nest: list[Any] = []
    nest.append(nest)
    path.write_bytes(pickle.dumps({"a": nest}))
    loaded = read_weights_file(path)["a"]
    assert loaded[0] is loaded


def test_pickle_larger_than_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    monkeypatch.setattr(safe_pickle, "MAX_FILE_BYTES", 5)
    with pytest.raises(WeightsError, match="larger than any model"):
        read_weights_file(path)


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_program_ends_in_data_or_a_weights_error(tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fuzz.pkl")
        path.write_bytes(b"\x80\x04" + tail)
        # Anything but data or this error fails the test.
        with contextlib.suppress(WeightsError):
            assert isinstance(read_weights_file(path), dict)


def zip_of(records: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


ENDINGS = (".pth", ".pth.tar", ".pt", ".bin", ".pkl", ".npz", ".safetensors")
FAKES = {
    "empty": (b"", "it is empty"),
    "web page": (b"\n<!DOCTYPE html><html><body>403 Forbidden</body></html>", "web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "json": (b'{"model": 1}', "JSON"),
    "index": (b'{"metadata": {"total_size": 9}, "weight_map": {}}', "join the files"),
    "text": (b"404: Not\nFound", "it is a text, '404: Not Found'"),
    "zeros": (bytes(5000), "zeros only"),
    "bytes": (b"\x07\x00\x01\x02\xff", r"begins with b'.x07"),
    "gzip": (gzip.compress(b"a"), "compressed with gzip"),
    "bzip2": (b"BZh91AY", "compressed with bzip2"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "7z archive"),
    "array": (b"\x93NUMPY\x01\x00", "a single numpy array"),
    "keras": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "picture": (b"\xff\xd8\xff\xe0", "a picture"),
    "empty archive": (zip_of({}), "empty zip archive"),
    "document": (zip_of({"[Content_Types].xml": b"<Types/>"}), "an Office document"),
    "packed weights": (zip_of({"model.pth": b"PK"}), r"in it: model\.pth\); unpack it"),
    "cut archive": (zip_of({"a/data.pkl": b"N."})[:40], "list of its parts, .* is missing"),
    "cut safetensors": (b"\x60\x00\x00\x00\x00\x00\x00\x00{", "cut off: .* 9 bytes, .* has 96"),
    "cut pickle": (b"\x80\x04X\xff\x00\x00\x00a", "cut off, damaged, or no pickle of weights"),
}


@pytest.mark.parametrize("name", FAKES)
def test_fakes_are_recognised(name: str, tmp_path: Path) -> None:
    content, message = FAKES[name]
    told = set()
    for ending in ENDINGS:
        path = tmp_path / f"weights{ending}"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message) as caught:
            read_weights_file(path)
        assert "weights_only" not in str(caught.value)
        told.add(str(caught.value).removeprefix(str(path)))
    assert len(told) == 1, "the content decides, not the name"


def test_every_fake_has_a_sentence_of_its_own() -> None:
    assert len({message for _, message in FAKES.values()}) == len(FAKES) - 1  # pages: HTML and XML


def test_no_more_is_read_than_there_is() -> None:
    for read in (lambda file: file.read(5), lambda file: file.readinto(bytearray(5))):
        with pytest.raises(EOFError, match="in the middle of a value"):
            read(safe_pickle.BoundedFile(io.BytesIO(b"abcdef"), 4))


def test_tar_archives_and_missing_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    with pytest.raises(WeightsError, match="tar archive"):
        read_weights_file(path)
    with pytest.raises(WeightsError, match="does not exist"):
        read_weights_file(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_weights_file(tmp_path)


def saved(path: Path) -> bytes:
    torch.save({"model": {"w": torch.arange(20000.0)}}, path)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_cut_off_archives(share: float, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    content = saved(path)
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match="cut off or damaged"):
        read_weights_file(path)


@pytest.mark.parametrize("position", [0.2, 0.4, 0.6, 0.8])
def test_one_flipped_bit_is_found(position: float, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    content = bytearray(saved(path))
    content[int(len(content) * position)] ^= 4
    path.write_bytes(content)
    # torch itself reads such a file without a word.
    torch.load(path, weights_only=True)
    with pytest.raises(WeightsError, match="does not match its checksum"):
        read_weights_file(path)


def test_other_archives_are_told(tmp_path: Path) -> None:
    compressed = tmp_path / "compressed.pth"
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"0" * 1000)
    with pytest.raises(WeightsError, match="compressed archive"):
        read_weights_file(compressed)
    program = tmp_path / "program.pth"
    with zipfile.ZipFile(program, "w") as archive:
        archive.writestr("program/code/__torch__.py", b"")
    with pytest.raises(WeightsError, match="TorchScript"):
        read_weights_file(program)
    plain = tmp_path / "photos.pth"
    with zipfile.ZipFile(plain, "w") as archive:
        archive.writestr("photo.jpg", b"\xff\xd8")
    with pytest.raises(WeightsError, match="no weights file"):
        read_weights_file(plain)


def test_safetensors_are_read_and_checked(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"w": torch.arange(1000.0)}, path)
    assert torch.equal(read_weights_file(path)["w"], torch.arange(1000.0))
    renamed = path.rename(tmp_path / "weights.bin")
    assert sniff(renamed) == "safetensors", "the content decides, not the name"
    renamed.write_bytes(renamed.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="cut off or damaged"):
        read_weights_file(renamed)


def test_no_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(1)], path)
    with pytest.raises(WeightsError, match="expected a dictionary of tensors, got list"):
        read_weights_file(path)


def test_old_torch_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    saved(path)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(WeightsError, match=r"torch >= 2\.10"):
        read_weights_file(path)
