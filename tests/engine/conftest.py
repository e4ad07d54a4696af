# SPDX-License-Identifier: Apache-2.0
"""One forking process for all engine tests, and a tiny data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Here: pytest reads a conftest before it knows which warnings of an import to ignore.
    from tests.engine.tiny_run import write_data

    folder = tmp_path_factory.mktemp("tiny data")
    write_data(folder)
    return folder
