# SPDX-License-Identifier: Apache-2.0
"""``vitdet convert``: weights of any source into a file of ours, or of Detectron2."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitdet_d2.backbones import PVT, MiT, PVTv2, ViT
from vitdet_d2.engine.arguments import OneLineParser
from vitdet_d2.errors import RecipeError
from vitdet_d2.pretrained.conversion import Converted, Layout, convert
from vitdet_d2.pretrained.reader import strip_query
from vitdet_d2.pretrained.write import ENDINGS, Written, write_weights

# What does the same as the default.
_SAME = {"act": "gelu"}
# Shown also where they are the defaults.
_SIZES = (
    "patch_size", "embed_dim", "depth", "num_heads", "pretrain_img_size", "embed_dims", "depths",
    "mlp_ratios",
)  # fmt: skip


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
    add("--layer-scale", choices=["keep", "fold"], default="keep", help="as the file, or folded")
    add("--patch-size", type=int, metavar="P", help="resize the kernel of the patch embedding")
    add("--patch-resize", choices=["pinv", "bicubic"], default="pinv", help="how; default: pinv")
    add("--overwrite", action="store_true", help="replace OUT")
    add("--json", action="store_true", help="as JSON")
    add("--debug", action="store_true", help="show tracebacks")
    parsed = parser.parse_args(list(argv))
    _check_output(parsed.weights, parsed.output, overwrite=parsed.overwrite)
    to: Layout = parsed.to or ("detectron2" if parsed.output.suffix == ".pkl" else "vitdet")
    converted = convert(
        parsed.weights, to=to, source=parsed.source, layer_scale=parsed.layer_scale,
        patch_size=parsed.patch_size, patch_resize=parsed.patch_resize,
    )  # fmt: skip
    written = write_weights(parsed.output, converted.tensors, converted.entry)
    if parsed.json:
        print(json.dumps(_facts(parsed.output, converted, written), indent=1))
        return
    for line in _lines(parsed.weights, parsed.output, converted, written):
        print(line)


def _check_output(weights: str, output: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot be, or that would destroy something.

    Raises:
        RecipeError: it is one.
    """
    if output.suffix not in ENDINGS:
        raise RecipeError(f"{output}: expected an ending of {', '.join(ENDINGS)}")
    if not output.parent.is_dir():
        raise RecipeError(f"{output.parent} is no folder; make it first")
    if output.is_dir():
        raise RecipeError(f"{output} is a folder; name a file")
    source = Path(strip_query(weights))
    if output.exists() and source.exists() and output.samefile(source):
        raise RecipeError(f"{output} is the file to read; name another one")
    if output.exists() and not overwrite:
        raise RecipeError(f"{output} is there already; replace it with --overwrite")


def _facts(output: Path, converted: Converted, written: Written) -> dict[str, Any]:
    vit, options = converted.vit_options, converted.options
    return {
        "output": str(output), "to": converted.to, "kind": converted.kind,
        "origin": converted.origin, "how": converted.how, "tensors": len(converted.tensors),
        "folded": converted.folded, "dropped": list(converted.dropped),
        "notes": list(converted.notes), "bytes": written.num_bytes, "sha256": written.sha256,
        "backbone": converted.backbone,
        "options": None if options is None else _overrides(options),
        "vit_options": None if vit is None else _overrides(vit),
    }  # fmt: skip


def _lines(weights: str, output: Path, converted: Converted, written: Written) -> list[str]:
    folded = f", {converted.folded} factors of LayerScale folded" if converted.folded else ""
    some = ", ".join(converted.dropped[:3]) + (", ..." if len(converted.dropped) > 3 else "")
    dropped = f", {len(converted.dropped)} keys left out ({some})" if converted.dropped else ""
    lines = [
        f"{weights}: {converted.origin}, {converted.how}",
        f"{output}: {len(converted.tensors)} tensors for {converted.to}{folded}{dropped}; "
        f"{written.num_bytes} bytes, sha256 {written.sha256}",
        *converted.notes,
    ]
    if converted.kind == "detector":
        return [*lines, f"kept with it: {_kept(converted.entry)}"]
    assert converted.options is not None, "of an encoder"
    assert converted.backbone is not None, "of an encoder"
    defaults = _defaults(converted.backbone)
    options = {
        name: value
        for name, value in _overrides(converted.options).items()
        if name in _SIZES or value not in (defaults.get(name), _SAME.get(name, defaults.get(name)))
    }
    shown = " ".join(f"{name}={_plain(value)}" for name, value in options.items())
    whose = "Detectron2's" if converted.to == "detectron2" else "our"
    lines.append(f"{whose} {converted.backbone} takes it with: {shown}")
    if "num_heads" not in options:
        lines.append("num_heads is in no file, and not known of this width: see its authors' code")
    return lines


def _kept(entry: Mapping[str, Any]) -> str:
    names = entry.get("thing_classes")
    kept = [
        f"{len(names)} class names" if names else "",
        "its recipe" if entry.get("recipe") else "",
        "its pixel statistics" if "pixel_mean" in entry else "",
    ]
    return ", ".join(filter(None, kept)) or "nothing, as the file says nothing of itself"


def _overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a backbone by the names that they have in recipes, as plain values."""
    named = {name: value for name, value in options.items() if name != "norm_layer"}
    if "norm_layer" in options:
        named["norm_layer.eps"] = options["norm_layer"].keywords["eps"]
    return named


def _plain(value: Any) -> str:
    """Write a value as an override has it, which ends at a space."""
    return str(value).replace(" ", "")


def _defaults(backbone: str) -> dict[str, Any]:
    """Return the defaults of a class's arguments; tuples as lists, which recipes hold."""
    cls = {known.__name__: known for known in (ViT, PVT, PVTv2, MiT)}[backbone]
    parameters = inspect.signature(cls.__init__).parameters
    return {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in parameters.items()
    }
