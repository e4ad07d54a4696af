# SPDX-License-Identifier: Apache-2.0
"""What a file is, by its first bytes; its name does not matter."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from vitdet_d2.errors import WeightsError

Format = Literal["safetensors", "torch_zip", "torch_legacy", "pickle", "npz"]

_HEAD_BYTES = 4096
# First bytes of the pickled "magic number" with which torch < 1.6 begins a file.
_TORCH_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_SAFETENSORS_MAX_HEADER = 100_000_000  # the format's own limit, bytes
_CONVERT = "load it with the library that wrote it, and save the weights as .safetensors or .npz"

# First bytes of other files that are offered as weights, and what to do with each.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a Git LFS pointer; run `git lfs pull` where it was cloned"),
    (b"\x1f\x8b", "it is compressed with gzip; unpack it (gunzip, or tar xzf), and give the file"),
    (b"BZh", "it is compressed with bzip2; unpack it, and give the file inside"),
    (b"\xfd7zXZ\x00", "it is compressed with xz; unpack it, and give the file inside"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it, and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive; unpack it, and give the file inside"),
    (b"Rar!\x1a\x07", "it is a RAR archive; unpack it, and give the file inside"),
    (b"PK\x05\x06", "it is an empty zip archive; get the file again"),
    (b"\x93NUMPY", "it is a single numpy array; give the .npz or checkpoint with all weights"),
    (b"\x89HDF\r\n\x1a\n", f"it is an HDF5 file, perhaps of Keras; {_CONVERT}"),
    (b"GGUF", f"it is a GGUF file; {_CONVERT}"),
    (b"%PDF", "it is a PDF document; get the weights instead"),
    (b"\x89PNG", "it is a picture; give the weights instead"),
    (b"\xff\xd8\xff", "it is a picture; give the weights instead"),
)
# ONNX: the version of its format, then the name of the producer or the graph.
_ONNX = re.compile(rb"\x08[\x01-\x20](?:\x12.{1,40}|\x3a|\x1a|\x42)", re.DOTALL)
# msgpack: a table of few entries whose first key is a short text.
_MSGPACK = re.compile(rb"[\x81-\x8f][\xa1-\xbf][A-Za-z_]")
_TEXT = re.compile(rb"[\t\n\r -~]+")
# A saved model of TensorFlow: the version of its schema, then a graph.
_TENSORFLOW = re.compile(rb"\x08\x01\x12..?.?.?\x0a", re.DOTALL)


def sniff(path: str | os.PathLike[str]) -> Format:
    """Tell the format of a weights file from its first bytes.

    Args:
        path: a local file.

    Returns:
        The format; that of a zip archive whose first file is no array is torch's.

    Raises:
        WeightsError: there is no such file, or it is none of weights: empty, a web page, a Git LFS
            pointer, another archive, weights of another library, or unknown.
    """
    file = Path(path)
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise WeightsError(f"{path}: {kind}; give the path of a weights file")
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return "npz" if name.endswith(b".npy") else "torch_zip"
    if _is_safetensors(head, size):
        return "safetensors"
    if head.startswith(b"\x80"):
        return "torch_legacy" if head[2:14] == _TORCH_LEGACY_MAGIC else "pickle"
    if _is_safetensors(head, _SAFETENSORS_MAX_HEADER):
        header = int.from_bytes(head[:8], "little")
        raise WeightsError(
            f"{path}: cut off: a .safetensors file of {size} bytes, whose header alone has "
            f"{header}; get the file again"
        )
    raise WeightsError(f"{path}: not a weights file: {_describe(head)}")


def _is_safetensors(head: bytes, size: int) -> bool:
    header = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= header <= min(_SAFETENSORS_MAX_HEADER, size)


def _describe(head: bytes) -> str:
    if not head:
        return "it is empty; delete it and get it again"
    if not head.strip(b"\x00"):
        return "it begins with zeros only: a download that was never finished; get it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error", b"<!--")):
        return (
            "it looks like a web page, perhaps an error page of the server it was downloaded from; "
            "delete it, open the address in a browser, and get the file itself"
        )
    if text.startswith(b"{"):
        return _describe_json(text)
    for start, what in _OTHERS:
        if head.startswith(start):
            return what
    if head[257:262] == b"ustar":
        return "it is a tar archive; unpack it, and give the file inside"
    return _describe_binary(head)


def _describe_json(text: bytes) -> str:
    if b'"weight_map"' in text or b'"total_size"' in text:
        return (
            "it is the index of weights in several files; join the files in the library that wrote "
            "them (transformers: save_pretrained with a large max_shard_size), and give the one "
            "that comes of it"
        )
    return (
        "it looks like JSON, the settings beside the weights or the message of a server; give the "
        "weights themselves"
    )


def _describe_binary(head: bytes) -> str:
    if _TENSORFLOW.match(head):
        return f"it looks like a model of TensorFlow; {_CONVERT}"
    if _ONNX.match(head):
        return "it looks like an ONNX model, whose names are lost; give the checkpoint it is from"
    if _MSGPACK.match(head) or head[:1] in (b"\xde", b"\xdf"):
        return f"it looks like msgpack, as flax writes it; {_CONVERT}"
    if _TEXT.fullmatch(head[:60]):
        shown = " ".join(head[:60].decode("ascii").split())
        return (
            f"it is a text, {shown!r}, perhaps the message of a server it was downloaded from; get "
            "the file itself"
        )
    return (
        f"it begins with {head[:8]!r}; expected .safetensors, .pth, .npz or a .pkl of a model zoo "
        "(is the file damaged, or compressed?)"
    )
