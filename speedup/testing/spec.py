"""A network as an immutable value: constructor calls that are written down but not yet made.

The repr of a `Spec` is the Python expression that builds the module, so the example that
Hypothesis prints on a failure can be pasted into a file and read as ordinary PyTorch:

    >>> Spec.of(nn.Sequential, Spec.of(nn.Conv2d, 3, 8, 3, padding=1), Spec.of(nn.ReLU))
    Sequential(Conv2d(3, 8, 3, padding=1), ReLU())
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
from torch import nn

if TYPE_CHECKING:
    from hypothesis.vendor.pretty import RepresentationPrinter


@attrs.frozen(repr=False, cache_hash=True)
class Spec:
    """The call `make(*arguments, **options)`; a nested spec is built before it is passed on."""

    make: type[nn.Module]
    arguments: tuple[object, ...] = ()
    options: tuple[tuple[str, object], ...] = ()

    @classmethod
    def of(cls, make: type[nn.Module], /, *arguments: object, **options: object) -> Spec:
        """Write down a call in the form in which it would be made."""
        return cls(make, arguments, tuple(options.items()))

    def build(self) -> nn.Module:
        """Make the call, with PyTorch's default initialisation."""
        arguments = [_built(argument) for argument in self.arguments]
        return self.make(*arguments, **{name: _built(value) for name, value in self.options})

    def walk(self) -> Iterator[Spec]:
        """This spec and those nested in it, outermost first."""
        yield self
        for value in (*self.arguments, *(value for _, value in self.options)):
            if isinstance(value, Spec):
                yield from value.walk()

    def __repr__(self) -> str:
        arguments = [repr(argument) for argument in self.arguments]
        options = [f"{name}={value!r}" for name, value in self.options]
        return f"{self.make.__name__}({', '.join(arguments + options)})"

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        """The same with line breaks: IPython's protocol, which Hypothesis follows in its reports."""
        printer.repr_call(self.make.__name__, self.arguments, dict(self.options))


def sequential(*specs: Spec) -> Spec:
    """The specs one after another, without a wrapper where one spec is all there is."""
    match specs:
        case ():
            return Spec.of(nn.Identity)
        case (only,):
            return only
        case _:
            return Spec.of(nn.Sequential, *specs)


def _built(value: object) -> object:
    return value.build() if isinstance(value, Spec) else value
