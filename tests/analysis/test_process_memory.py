# SPDX-License-Identifier: Apache-2.0
"""What Linux tells about memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vitdet_d2.analysis import process_memory
from vitdet_d2.analysis.process_memory import available_bytes, process_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def test_peak_follows_an_allocation():
    """In a process of its own: this one's peak may be anything."""
    code = (
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('m', {process_memory.__file__!r})\n"
        "m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m)\n"
        "first = bytearray(90_000_000); del first\n"
        "m.forget_peak()\n"
        "low = m.process_bytes('VmHWM') - m.process_bytes('VmRSS')\n"
        "block = bytearray(50_000_000)\n"
        "del block\n"
        "kept = m.process_bytes('VmHWM') - m.process_bytes('VmRSS') > 45_000_000\n"
        "m.limit_growth(20_000_000)\n"
        "small = bytearray(5_000_000)\n"
        "try:\n"
        "    bytearray(60_000_000)\n"
        "    refused = False\n"
        "except MemoryError:\n"
        "    refused = True\n"
        "print(low, kept, refused)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    low, kept, refused = out.stdout.split()
    assert int(low) < 50_000_000  # where the peak cannot be forgotten, it would be 90 MB
    assert (kept, refused) == ("True", "True")


def test_available_memory_is_less_than_the_machine_has():
    available = available_bytes()
    assert available is not None
    total = process_memory._field(process_memory.Path("/proc/meminfo"), "MemTotal")
    assert total is not None
    assert 0 < available <= total


def test_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit, used, stat = (tmp_path / name for name in ("max", "current", "stat"))
    limit.write_text("1000\n")
    used.write_text("400\n")
    monkeypatch.setattr(process_memory, "_CGROUPS", ((str(limit), str(used), str(stat)),))
    stat.write_text("anon 250\ninactive_file 0\n")
    assert available_bytes() == 600
    # Files that were read count as used, and make room for whoever needs it.
    stat.write_text("anon 250\ninactive_file 100\nactive_file 50\n")
    assert available_bytes() == 700
    stat.write_text("inactive_file 100\ntotal_inactive_file 130\n")
    assert available_bytes() == 730
    limit.write_text("max\n")
    assert (available_bytes() or 0) > 1000


def test_what_is_not_told():
    assert process_bytes("VmRSS", 2**30) is None
    assert process_bytes("VmNonsense") is None
