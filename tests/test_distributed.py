"""Checkpoints of large models are loaded by many processes into sharded small models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cut_cases import CASES
from tests.support.repository import ROOT


@pytest.mark.parametrize("processes", [2, 4])
def test_every_process_gets_its_part_of_what_is_kept(processes: int, tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "tests.support.sharded_loads", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = [line.removeprefix("holds: ") for line in ran.stdout.splitlines() if line.startswith("holds: ")]
    cases = [f"{case}{dim}" for case in CASES for dim in (0, 1)]
    wanted = ["training 0", "training 1", "refused numbers", "refused missing", "refused shape"]
    assert found == [*cases, *wanted]
