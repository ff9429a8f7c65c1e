"""On what machine something was measured: what its figures depend on, and nothing that names it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from attrs import frozen


@frozen
class Machine:
    """The class of a machine: device, processor, cores, version of torch."""

    device: str
    processor: str
    cores: int
    torch: str

    def differences(self, other: Machine) -> Iterator[str]:
        """In what this machine is unlike `other`, in words."""
        pairs = (
            ("device", self.device, other.device),
            ("processor", self.processor, other.processor),
            ("number of cores", self.cores, other.cores),
            ("torch", self.torch, other.torch),
        )
        yield from (f"the {what} was {a}, here it is {b}" for what, a, b in pairs if a != b)


def this_machine(device: torch.device) -> Machine:
    """The machine that this runs on, and one of its devices."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Machine(name, _processor(), os.cpu_count() or 1, torch.__version__)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
