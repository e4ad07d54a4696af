# SPDX-License-Identifier: Apache-2.0
"""Local files, web addresses (cached) and ``detectron2://`` names behind one interface.

Source: detectron2 ``utils/file_io.py``; iopath does the work.
"""

from __future__ import annotations

from typing import IO, Any

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

__all__ = ["PathHandler", "PathManager"]

# An instance of its own, so that handlers of other projects do not meet.
PathManager = _PathManager()

_PREFIX = "detectron2://"
_ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"


class Detectron2Handler(PathHandler):
    """Maps ``detectron2://NAME`` to the server that holds Detectron2's published files."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _address(self, path: str) -> str:
        return _ADDRESS + path.removeprefix(_PREFIX)

    # iopath hands its own keyword arguments through these two methods.
    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return PathManager.get_local_path(self._address(path), force=force, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return PathManager.open(self._address(path), mode, buffering=buffering, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(Detectron2Handler())
