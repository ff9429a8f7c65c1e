"""What a forward can be made to say otherwise, and where its source says it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from speedup.ir.graph import Frame, Op


class Restating(ABC):
    """Something for which the source has to state the call of an op otherwise."""

    @property
    @abstractmethod
    def restated(self) -> Op:
        """The op whose call is stated otherwise."""

    @property
    def place(self) -> tuple[str, Frame, str]:
        """Where the source states it, which is the same for all calls that run it: the module's path, the
        line, and the argument where each of a call's may be stated otherwise.
        """
        return self.restated.owner.path, self.restated.calls[0], ""
