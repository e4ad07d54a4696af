# SPDX-License-Identifier: Apache-2.0
"""Whether someone looks into a module or a program: then it runs as it is written."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as globally


def read_by_compiler() -> bool:
    """Return whether a compiler or a tracer reads the program, to run what it has read elsewhere.

    What is fast here and now, and written for these sizes and this processor, is not for them.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def watched(*modules: nn.Module) -> bool:
    """Return whether there is a forward hook on one of the modules or their parts, or on all.

    A hook expects the whole input and output of its module: what skips modules, or gives them a
    part of the map at a time, must not be used then.

    Args:
        modules: of a model.
    """
    if globally._global_forward_hooks or globally._global_forward_pre_hooks:
        return True
    return any(
        part._forward_hooks or part._forward_pre_hooks
        for module in modules
        for part in module.modules()
    )
