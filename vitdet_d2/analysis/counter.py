# SPDX-License-Identifier: Apache-2.0
"""Count the work of a forward pass, part by part, on the meta device or on any other.

Operators are counted as they run, fused attention by the products that it stands for; layers that
`MODULE_RULES` names are counted by formula, whatever runs inside them. Two FLOPs per multiply-add.
Not counted: norms, activations, softmax, additions, pooling, resizing and RoIAlign, which are no
products of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.backends.mha
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vitdet_d2.analysis.attention_work import attention_work
from vitdet_d2.analysis.work import Work, attention_product
from vitdet_d2.layers.attention import Attention

# By the class of a layer: its work from the shape of its first input.
MODULE_RULES: dict[type[nn.Module], Callable[[Any, tuple[int, ...]], Work]] = {
    Attention: attention_work,
}

# Operators of these namespaces that are not counted are known not to multiply matrices; those of
# others, such as compiled attention kernels of a package, are named to the user.
KNOWN_NAMESPACES = {"aten", "prim", "prims", "torchvision", "profiler"}
# Our own operators that multiply no matrices, or one that resizes tables, on the host.
OWN_WITHOUT_PRODUCTS = {"vitdet_d2::resize_matrix", "vitdet_d2::ordered_nms"}
# Those that run inside `Attention` alone, whose rule counts them.
OWN_OF_ATTENTION = {"vitdet_d2::attend_terms", "vitdet_d2::attend_terms_backward"}
# Of known namespaces, what does.
UNCOUNTED = {"torchvision.deform_conv2d"}

# All kernels of `F.scaled_dot_product_attention`, whose arguments begin with query, key, value.
_FUSED_ATTENTION = "aten._scaled_dot_product_"
# What `vitdet_d2.layers.onednn` calls.
_ONEDNN_LINEAR = "mkldnn._linear_pointwise"


class WorkCounter:
    """Adds up the work of what runs inside `counting`.

    Attributes:
        parts: work by part, see `part`.
        uncounted: names of operators that may be matrix products and have no rule.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Work] = {}
        self.uncounted: set[str] = set()
        self._part = ""
        self._inside_rule = 0

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        """Count in this block.

        Args:
            model: whose layers with a rule of their own are counted by it.
        """
        with ExitStack() as stack:
            stack.enter_context(_plain_attention_layers())
            for module in model.modules():
                if type(module) in MODULE_RULES:
                    stack.enter_context(_hooked(module, self._begin_rule, self._end_rule))
            with _Operators(self._count):
                yield

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Book what runs in this block on a part.

        Args:
            name: of the part; a block inside another one takes its own.
        """
        before, self._part = self._part, name
        try:
            yield
        finally:
            self._part = before

    @contextmanager
    def part_of(self, module: nn.Module, name: str) -> Iterator[None]:
        """Book what a module computes in this block on a part.

        Args:
            module: called at any depth inside the block.
            name: of the part.
        """
        outer: list[str] = []

        def begin(_module: nn.Module, _arguments: Any) -> None:
            outer.append(self._part)
            self._part = name

        def end(_module: nn.Module, _arguments: Any, _output: Any) -> None:
            self._part = outer.pop()

        with _hooked(module, begin, end):
            yield

    def _count(
        self, packet: Any, namespace: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Add the work of one operator that has run."""
        if self._inside_rule:
            return
        name = str(packet)
        if name.startswith(_FUSED_ATTENTION):
            q, k, v = args[:3]
            sizes = (q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1])
            self._add(attention_product(math.prod(q.shape[:-3]), q.shape[-3], *sizes))
        elif name == _ONEDNN_LINEAR:
            weight = args[2] if isinstance(args[4], str) else args[1]  # other, then weight
            self._add(Work(flops=2 * args[0].numel() * weight.shape[0], activations=out.numel()))
        elif packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
            outputs = out if isinstance(out, tuple | list) else [out]
            numbers = next(value.numel() for value in outputs if isinstance(value, Tensor))
            self._add(Work(flops=int(flops), activations=numbers))
        elif name.replace(".", "::") in OWN_WITHOUT_PRODUCTS:
            return
        elif namespace not in KNOWN_NAMESPACES or name in UNCOUNTED:
            self.uncounted.add(name)

    def _add(self, work: Work) -> None:
        self.parts[self._part] = self.parts.get(self._part, Work()) + work

    def _begin_rule(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not self._inside_rule:
            self._add(MODULE_RULES[type(module)](module, tuple(arguments[0].shape)))
        self._inside_rule += 1

    def _end_rule(self, _module: nn.Module, _arguments: Any, _output: Any) -> None:
        self._inside_rule -= 1


class _Operators(TorchDispatchMode):
    """Hands every operator that runs to a function."""

    def __init__(self, count: Callable[..., None]) -> None:
        """Remember the function, called with operator, namespace, arguments and result."""
        super().__init__()
        self._count = count

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator, taken apart where it consists of others, and hand it on."""
        kwargs = dict(kwargs or {})
        packet = func._overloadpacket
        if packet not in flop_registry:
            # Inference mode hands on `linear` and `matmul` whole.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        self._count(packet, func.namespace, args, kwargs, out)
        return out


@contextmanager
def _plain_attention_layers() -> Iterator[None]:
    """Keep torch's own attention layer from running as one operator, which nothing looks into."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _hooked(
    module: nn.Module, begin: Callable[..., None], end: Callable[..., None]
) -> Iterator[None]:
    """Call functions before and after every call of a module in this block."""
    hooks = [
        module.register_forward_pre_hook(begin),
        module.register_forward_hook(end, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
