"""Ten thousand damaged headers, in a process that may not have a gigabyte."""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gguf_worker.chat import ChatTemplate
from gguf_worker.config import Machine, Settings
from gguf_worker.errors import StartError
from gguf_worker.models.gguf import read_header
from gguf_worker.models.memory import fit
from tests.child_process import import_path
from tests.tiny_gguf import write_tiny

pytestmark = pytest.mark.e2e

CASES = 10_000
MEMORY = 1 << 30
SECONDS = 2.0
_EXTREMES = (0, 1, 0x7F, 0xFF, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)


def test_no_damaged_header_crashes_hangs_or_takes_a_gigabyte(tmp_path: Path) -> None:
    whole = write_tiny(tmp_path / "whole.gguf", vocabulary=277, layers=1)
    report = subprocess.run(
        [sys.executable, __file__, str(whole), str(tmp_path / "damaged.gguf")],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, **import_path()},
    )
    assert report.returncode == 0, report.stderr[-2000:]
    facts = json.loads(report.stdout)
    print(facts)
    assert sum(facts["outcomes"].values()) == CASES
    # Neither all are refused nor all accepted: the damage matters, and is not always fatal.
    assert facts["outcomes"]["ModelCorrupt"] > CASES / 2
    assert facts["outcomes"]["Header"] > CASES / 100
    assert facts["slowest_seconds"] < SECONDS


def _damaged(whole: bytes, header_bytes: int, chance: random.Random) -> bytes:
    """Return the file with one to four faults, most of them in the header."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(header_bytes, len(data)))
        match chance.randrange(7):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at : at + 8] = struct.pack("<Q", chance.choice(_EXTREMES))
            case 2:
                data[at : at + 4] = struct.pack("<I", chance.choice(_EXTREMES) & 0xFFFFFFFF)
            case 3:
                del data[chance.randrange(24, len(data)) :]
            case 4:
                data[at:at] = chance.randbytes(chance.randint(1, 16))
            case 5:
                del data[at : at + chance.randint(1, 64)]
            case 6:
                other = chance.randrange(len(data))
                data[at : at + 32] = data[other : other + 32]
        if len(data) < 25:
            break
    return bytes(data)


def _fuzz(source: Path, target: Path) -> dict[str, object]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    whole = source.read_bytes()
    header_bytes = whole.rindex(b".weight") + 40  # of the last tensor
    chance = random.Random(11)
    machine = Machine(2, 8 << 30, 8 << 30)
    settings = Settings(model=str(target))
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(CASES):
        target.write_bytes(_damaged(whole, header_bytes, chance))
        began = time.monotonic()
        try:
            header = read_header(target)
            fit(settings, machine, header, gpu_offload=False)
            ChatTemplate(header.chat_template, header.bos_token, header.eos_token)
            outcomes["Header"] += 1
        except StartError as error:
            outcomes[type(error).__name__] += 1
        slowest = max(slowest, time.monotonic() - began)
    return {"outcomes": outcomes, "slowest_seconds": slowest}


if __name__ == "__main__":
    print(json.dumps(_fuzz(Path(sys.argv[1]), Path(sys.argv[2]))))
