# SPDX-License-Identifier: Apache-2.0
"""``vitdet convert``: weights of any source into a file of ours, or of Detectron2."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

import vitdet_d2
from vitdet_d2.engine.arguments import OneLineParser
from vitdet_d2.engine.atomic_write import HashingFile, atomic_write
from vitdet_d2.errors import RecipeError
from vitdet_d2.pretrained.conversion import Converted, Layout, convert_weights

ENDINGS = (".safetensors", ".pth", ".pkl")


def main(argv: Sequence[str], prog: str) -> None:
    """Run ``vitdet convert``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: wrong usage, or a file would be lost.
    """
    parser = OneLineParser(prog=prog, description="Convert weights of any known source.")
    add = parser.add_argument
    add("weights", metavar="SOURCE", help="path, address or name of the weights")
    add("output", metavar="OUT", type=Path, help="file to write: .safetensors, .pth or .pkl")
    add("--to", choices=["vitdet", "detectron2"], help="unset: detectron2 for .pkl, else vitdet")
    add("--source", metavar="NAME", help="what they are, where their keys cannot tell it")
    add("--layer-scale", choices=["keep", "fold"], default="keep")
    add("--patch-size", type=int, metavar="P", help="resize the patch embedding")
    add("--patch-resize", choices=["pinv", "bicubic"], default="pinv")
    add("--overwrite", action="store_true", help="replace OUT")
    add("--json", action="store_true", help="as JSON")
    add("--debug", action="store_true", help="show tracebacks")
    parsed = parser.parse_args(list(argv))
    _check_output(parsed.weights, parsed.output, overwrite=parsed.overwrite)
    to: Layout = parsed.to or ("detectron2" if parsed.output.suffix == ".pkl" else "vitdet")
    converted = convert_weights(
        parsed.weights, to=to, source=parsed.source, layer_scale=parsed.layer_scale,
        patch_size=parsed.patch_size, patch_resize=parsed.patch_resize,
    )  # fmt: skip
    with atomic_write(parsed.output) as file:
        _write(file, parsed.output.suffix, converted)
    facts = {
        "output": str(parsed.output), "to": to, "origin": converted.origin, "how": converted.how,
        "tensors": len(converted.tensors), "folded": converted.folded,
        "dropped": list(converted.dropped), "bytes": file.num_bytes, "sha256": file.sha256,
    }  # fmt: skip
    if parsed.json:
        print(json.dumps(facts, indent=1))
        return
    print(f"{parsed.weights}: {converted.origin}, {converted.how}")
    print(
        f"{parsed.output}: {len(converted.tensors)} tensors for {to}, {converted.folded} factors "
        f"folded, {len(converted.dropped)} keys of no use dropped; sha256 {file.sha256}"
    )


def _check_output(weights: str, output: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be, or that would destroy something.

    Raises:
        RecipeError: it is one.
    """
    if output.suffix not in ENDINGS:
        raise RecipeError(f"{output}: expected an ending of {', '.join(ENDINGS)}")
    if not output.parent.is_dir():
        raise RecipeError(f"{output.parent} is no folder; make it first")
    if output.exists() and Path(weights).exists() and output.samefile(weights):
        raise RecipeError(f"{output} is the file to read; name another one")
    if output.exists() and not overwrite:
        raise RecipeError(f"{output} is there already; replace it with --overwrite")


def _write(file: HashingFile, ending: str, converted: Converted) -> None:
    tensors = {name: _own(value) for name, value in converted.tensors.items()}
    if ending == ".safetensors":
        file.write(to_safetensors(tensors, metadata=converted.metadata or None))
        return
    content: dict[str, Any] = {"model": tensors}
    if converted.metadata:
        content["__metadata__"] = converted.metadata
    if ending == ".pth":
        torch.save(content, cast("IO[bytes]", file))
        return
    content["model"] = {name: value.float().numpy() for name, value in tensors.items()}
    content["__author__"] = f"vitdet_d2 {vitdet_d2.__version__}"
    content["matching_heuristics"] = False
    pickle.dump(content, cast("IO[bytes]", file), protocol=4)


def _own(value: Tensor) -> Tensor:
    """Return a tensor that shares its memory with no other."""
    value = value.contiguous()
    alone = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if alone else value.clone()
