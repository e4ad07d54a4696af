# SPDX-License-Identifier: Apache-2.0
"""Web addresses of weights: their canonical form, mirrors, and what may be shown of them.

Vocabulary:
    address: the canonical one, which names a file whatever server it comes from.
    source: where the bytes are asked for: the address, or its place on a mirror.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from vitdet_d2.errors import RecipeError

DETECTRON2_ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"
MIRROR_VARIABLE = "VITDET_D2_ZOO_URL"
OFFLINE_VARIABLE = "VITDET_D2_OFFLINE"

_DETECTRON2_SCHEME = "detectron2://"
_SCHEMES = ("http", "https", "file")
# Where servers put the beginning of a file's hash (OpenAI: all of it). That of DeiT and OpenCLIP is
# of the sha256, as torch.hub has it.
_HASHES_IN_ADDRESSES = re.compile(
    r"https://dl\.fbaipublicfiles\.com/(?:detectron2/.*_([0-9a-f]{6})\.pkl"
    r"|segment_anything/.*_([0-9a-f]{6})\.pth|deit/.*-([0-9a-f]{8})\.pth)"
    r"|https://openaipublic\.azureedge\.net/clip/models/([0-9a-f]{64})/.*"
    r"|https://github\.com/mlfoundations/open_clip/releases/.*-([0-9a-f]{8})\.pth?"
)
# Of the md5, in the table of MAE's README.
_HASHES_BESIDE_ADDRESSES = {
    "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth": "8cad7c",
    "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_large.pth": "b8b06e",
    "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_huge.pth": "9bdbb0",
}


def canonical(address: str) -> str | None:
    """Return the address of a file on the web, or None for anything else.

    Args:
        address: as a user writes it; ``detectron2://NAME`` stands for Detectron2's server.
    """
    if address.startswith(_DETECTRON2_SCHEME):
        return DETECTRON2_ADDRESS + address.removeprefix(_DETECTRON2_SCHEME)
    scheme, separator, _ = address.partition("://")
    return address if separator and scheme.lower() in _SCHEMES else None


def sources(address: str) -> list[str]:
    """Return where to ask for a file, in order.

    Args:
        address: canonical. One of Detectron2's server is looked for on the mirrors alone, if
            ``VITDET_D2_ZOO_URL`` names some (separated by commas).

    Raises:
        RecipeError: a mirror is no address.
    """
    mirrors = [part.strip() for part in os.environ.get(MIRROR_VARIABLE, "").split(",")]
    mirrors = [mirror for mirror in mirrors if mirror]
    if not mirrors or not address.startswith(DETECTRON2_ADDRESS):
        return [address]
    for mirror in mirrors:
        if urlsplit(mirror).scheme not in _SCHEMES:
            raise RecipeError(
                f"{MIRROR_VARIABLE}: expected https://, http:// or file:// addresses, got "
                f"{redact(mirror)!r}; it replaces {DETECTRON2_ADDRESS}"
            )
    rest = address.removeprefix(DETECTRON2_ADDRESS)
    return [f"{mirror.rstrip('/')}/{rest}" for mirror in mirrors]


def offline() -> bool:
    """Whether ``VITDET_D2_OFFLINE`` forbids to use the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").lower() not in ("", "0", "false", "no")


def hash_prefix(address: str) -> str | None:
    """Return the beginning of a file's hash that its authors publish, if they do.

    Args:
        address: canonical.
    """
    parts = urlsplit(address)
    plain = urlunsplit(parts._replace(query="", fragment=""))
    if plain in _HASHES_BESIDE_ADDRESSES:
        return _HASHES_BESIDE_ADDRESSES[plain]
    found = _HASHES_IN_ADDRESSES.fullmatch(plain)
    return next(filter(None, found.groups())) if found else None


def cache_path(address: str) -> Path:
    """Return where a file lies in the cache, relative to it; other servers have other places.

    Args:
        address: canonical.

    Raises:
        RecipeError: the address names no file.
    """
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2].replace(":", "_").lower() or "local"
    segments = [quote(unquote(s), safe=" +@,=") for s in parts.path.split("/") if s]
    if not segments or parts.path.endswith("/") or {".", ".."} & set(segments):
        raise RecipeError(f"{redact(address)} names no file; give the address of a weights file")
    if parts.query:
        digest = hashlib.sha256(parts.query.encode()).hexdigest()[:12]
        segments[-1] = f"{digest}-{segments[-1]}"
    return Path(host, *segments)


def redact(address: str) -> str:
    """Return an address without what may be a secret: a user's name, a password, query values.

    Args:
        address: or a path, which stays as it is.
    """
    if "://" not in address:
        return address
    parts = urlsplit(address)
    _, at, host = parts.netloc.rpartition("@")
    shown = [
        f"{key}={value if key == 'matching_heuristics' else '***'}"
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit(parts._replace(netloc=f"***@{host}" if at else host, query="&".join(shown)))
