"""Virtual environments of the other tools, made by pip below a folder that git ignores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from attrs import frozen

_ROOT = Path(__file__).parents[2]
CACHE = _ROOT / ".peers"
_CONSTRAINTS = _ROOT / "constraints.txt"
_ZOOS = ("torchvision", "pillow")


@frozen
class Environment:
    """What pip is asked for: with the pins of `constraints.txt`, without, and last without dependencies."""

    name: str
    pinned: tuple[str, ...]
    free: tuple[str, ...] = ()
    alone: tuple[str, ...] = _ZOOS

    @property
    def python(self) -> Path:
        return CACHE / self.name / "bin" / "python"

    def make(self) -> None:
        """Make the environment unless it is complete."""
        done = CACHE / self.name / "complete"
        if done.exists():
            return
        _run([sys.executable, "-m", "venv", str(CACHE / self.name)])
        self._install(self.pinned, ["-c", str(_CONSTRAINTS)])
        self._install(self.free, [])
        self._install(self.alone, ["-c", str(_CONSTRAINTS), "--no-deps"])
        done.touch()

    def _install(self, packages: Sequence[str], options: Sequence[str]) -> None:
        if packages:
            _run([str(self.python), "-m", "pip", "install", "-q", *options, *packages])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


# NNI pins an old filelock, which transformers cannot be imported with: that comes last, alone.
ENVIRONMENTS: Mapping[str, Environment] = MappingProxyType(
    {
        "nni": Environment(
            "nni",
            ("torch", "transformers"),
            ("nni==3.0", "setuptools<81"),
            ("filelock", *_ZOOS),
        ),
        "torch_pruning": Environment("torch_pruning", ("torch", "transformers", "torch-pruning==1.6.1")),
        "torch_ao": Environment("torch_ao", ("torch", "transformers")),
    }
)
