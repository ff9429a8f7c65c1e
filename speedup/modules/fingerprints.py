"""Fingerprints of a model: to notice that it changed after planning, or that another is not like it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from speedup.ir.graph import Shape
from speedup.modules.rewritten import rewritten_functions_of
from speedup.torch_api import unsaved_buffers_of

# At most so many lanes that they stay in the cache and that torch does not yet share them out to threads,
# which on a busy machine would wait for one another at every step. And words for each lane.
_LANES, _FEW_LANES, _DEPTH = 1 << 15, 1 << 12, 16
# Tensors of few words whose checksums are computed in one go.
_TOGETHER = 64
# Words that are asked for at once.
_PIECE = 1 << 22
# The odd constant of Fibonacci hashing (Knuth 1973) for 32 bits, as a signed integer.
_STEP = 0x9E3779B1 - (1 << 32)
# Odd constants of splitmix64 (Steele, Lea and Flood 2014), as signed integers.
_RAMP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


Role = Literal["parameter", "buffer", "unsaved"]
"""What a tensor is in its model; `unsaved` is a buffer that state dicts leave out."""


@frozen
class TensorFingerprint:
    """Identity and content of one parameter or buffer.

    `same_as` is the first name of a tensor that has several; `address` tells the tensor from an equal one
    in the same process and is None in a plan that was read back, `role` in one of an earlier format.
    """

    name: str
    shape: Shape
    dtype: torch.dtype
    checksum: int
    same_as: str | None = None
    role: Role | None = None
    address: int | None = None


@frozen
class ModuleFingerprint:
    """Class of one module and, for torch's own and rewritten ones, its settings. `address` is the class's."""

    name: str
    type: str
    settings: str = ""
    address: int | None = None


Fingerprint = TensorFingerprint | ModuleFingerprint


def fingerprints_of(model: nn.Module, made: Collection[str] = ()) -> tuple[Fingerprint, ...]:
    """Stamps of all parameters, buffers and modules. Reads the tensors once.

    Tensors of the names `made` were made for this copy of a model, and are known by their content alone.
    """
    first: dict[int, TensorFingerprint] = {}
    tensors: list[TensorFingerprint] = []
    named = tuple(_named(model))
    sums = _checksums({id(tensor): tensor for _, tensor, _ in named})
    for name, tensor, role in named:
        known = first.get(id(tensor))
        if known is None:
            content = tuple(tensor.shape), tensor.dtype, sums[id(tensor)]
            address = None if name in made else id(tensor)
            first[id(tensor)] = known = TensorFingerprint(name, *content, role=role, address=address)
            tensors.append(known)
        else:
            tensors.append(evolve(known, name=name, same_as=known.name, role=role))
    modules = [
        ModuleFingerprint(name, _type_name(type(module)), _settings(module), id(type(module)))
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    return (*tensors, *modules)


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor, Role]]:
    """Parameters and buffers by all their names."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, parameter, "parameter"
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        path, _, own = name.rpartition(".")
        yield name, buffer, "unsaved" if own in unsaved_buffers_of(modules[path]) else "buffer"


def tensor_names(fingerprints: Iterable[Fingerprint]) -> frozenset[str]:
    """The names of all tensors that are told of."""
    return frozenset(one.name for one in fingerprints if isinstance(one, TensorFingerprint))


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _settings(module: nn.Module) -> str:
    rewritten = rewritten_functions_of(type(module))
    own = module.extra_repr() if type(module).__module__.startswith("torch.nn.") else ""
    return own + "".join(f" with {function.name} as {function.digest}" for function in rewritten)


def checksum(tensor: Tensor) -> int:
    """A number below 2**63 in magnitude that follows from the tensor's bytes and their order.

    Each lane takes in every so many-th word of 32 bits, one after the other: a polynomial in an odd constant
    whose high bits come down after each word, or signs that turn in pairs would cancel. Then the lanes are
    mixed with their positions and added up. In integers: the same on every device. Other bytes give the same
    number with odds of about one in 2**32 where they are all in one lane, in 2**60 otherwise.
    """
    if tensor.is_meta:
        return 0
    if tensor.layout is not torch.strided:
        parts = tuple(checksum(part) for part in _parts(tensor.detach()))
        return checksum(torch.tensor(parts, dtype=torch.int64))
    flat = _bytes(tensor)
    return checksum_of_bytes(lambda start, stop: flat[start:stop], flat.numel(), flat.device)


def _checksums(tensors: Mapping[int, Tensor]) -> Mapping[int, int]:
    """The checksum of each tensor. Those of few words are taken together: there are many in a model."""
    together: dict[torch.device, list[tuple[int, Tensor]]] = {}
    found: dict[int, int] = {}
    for key, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size() if tensor.layout is torch.strided else 0
        if not tensor.is_meta and 0 < size <= 4 * _FEW_LANES and not size % 4:
            together.setdefault(tensor.device, []).append((key, _bytes(tensor).view(torch.int32)))
        else:
            found[key] = checksum(tensor)
    for few in together.values():
        for start in range(0, len(few), _TOGETHER):
            keys, words = zip(*few[start : start + _TOGETHER], strict=True)
            found.update(zip(keys, _checksums_of_few(words), strict=True))
    return found


def _checksums_of_few(several: Sequence[Tensor]) -> list[int]:
    """The checksums of tensors of words, each of no more than there are lanes."""
    device = several[0].device
    # One lane more is there for what is less than a word.
    counts = torch.tensor([len(words) + 1 for words in several], device=device)
    rest = torch.zeros(1, dtype=torch.int32, device=device)
    lanes = torch.cat([part for words in several for part in (words, rest)])
    lanes += lanes >> 15
    # Where each lane is in its own tensor, from 1 on.
    places = torch.arange(1, len(lanes) + 1, device=device)
    owner = torch.repeat_interleave(torch.arange(len(several), device=device), counts)
    places -= (counts.cumsum(0) - counts)[owner]
    mixed = _mix(lanes.to(torch.int64), places)
    sums: list[int] = torch.zeros_like(counts).index_add_(0, owner, mixed).tolist()
    return sums


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that a sparse one consists of."""
    match tensor.layout:
        case torch.sparse_coo:
            tensor = tensor.coalesce()
            return tensor.indices(), tensor.values()
        case torch.sparse_csr | torch.sparse_bsr:
            return tensor.crow_indices(), tensor.col_indices(), tensor.values()
        case _:
            return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def checksum_of_bytes(
    read: Callable[[int, int], Tensor], size: int, device: torch.device | str = "cpu"
) -> int:
    """The same number for `size` bytes, of which `read` gives those from one place up to another."""
    if not size:
        return 0
    count = size // 4
    width = min(_LANES, max(count // _DEPTH, _FEW_LANES))
    lanes = torch.zeros(min(width, count) + 1, dtype=torch.int32, device=device)
    lanes[-1:].view(torch.uint8)[: size - 4 * count] = read(4 * count, size)
    shifted = torch.empty_like(lanes)
    piece = width * max(_PIECE // width, 1)
    for first in range(0, count, piece):
        words = read(4 * first, 4 * min(first + piece, count)).view(torch.int32)
        for start in range(0, words.numel(), width):
            block = words[start : start + width]
            lane, spare = lanes[: block.numel()], shifted[: block.numel()]
            torch.add(block, lane, alpha=_STEP, out=lane)
            lane.add_(torch.bitwise_right_shift(lane, 15, out=spare))
    return int(_mix(lanes.to(torch.int64), torch.arange(1, len(lanes) + 1, device=device)).sum())


def _mix(lanes: Tensor, places: Tensor) -> Tensor:
    mixed = (lanes + places * _RAMP).mul_(_FIRST)
    mixed.bitwise_xor_(mixed >> 29).mul_(_SECOND)
    return mixed.bitwise_xor_(mixed >> 32)


def changed_names(before: tuple[Fingerprint, ...], now: tuple[Fingerprint, ...]) -> tuple[str, ...]:
    """Names of what differs, in the order of `before`."""
    first = {(type(fingerprint), fingerprint.name): fingerprint for fingerprint in before}
    second = {(type(fingerprint), fingerprint.name): fingerprint for fingerprint in now}
    keys = {**first, **second}
    return tuple(dict.fromkeys(key[1] for key in keys if first.get(key) != second.get(key)))


def other_architecture(
    planned: tuple[Fingerprint, ...], found: tuple[Fingerprint, ...], dtypes: bool = True
) -> Iterator[str]:
    """In what another model is of another architecture, in words; contents do not count.

    `dtypes` says whether the types of its tensors have to agree.
    """
    first = {(type(fingerprint), fingerprint.name): fingerprint for fingerprint in planned}
    second = {(type(fingerprint), fingerprint.name): fingerprint for fingerprint in found}
    for key, fingerprint in first.items():
        if key not in second:
            yield f"{_in_words(fingerprint)} is missing"
        else:
            yield from _differences(fingerprint, second[key], dtypes)
    yield from (
        f"{_in_words(fingerprint)} was not planned" for key, fingerprint in second.items() if key not in first
    )


def other_contents(
    planned: tuple[Fingerprint, ...], found: tuple[Fingerprint, ...], value_independent: Collection[str]
) -> list[str]:
    """The tensors whose numbers differ, apart from those of `value_independent`."""
    known = {
        fingerprint.name: fingerprint.checksum
        for fingerprint in found
        if isinstance(fingerprint, TensorFingerprint)
    }
    return [
        fingerprint.name
        for fingerprint in planned
        if isinstance(fingerprint, TensorFingerprint)
        and fingerprint.name not in value_independent
        and fingerprint.same_as is None
        and known.get(fingerprint.name) != fingerprint.checksum
    ]


def _in_words(fingerprint: Fingerprint) -> str:
    if isinstance(fingerprint, TensorFingerprint):
        return f"tensor {fingerprint.name!r}"
    return f"module {fingerprint.name!r}" if fingerprint.name else "the model itself"


def _differences(planned: Fingerprint, found: Fingerprint, dtypes: bool) -> Iterator[str]:
    pairs: list[tuple[str, object, object]]
    match planned, found:
        case TensorFingerprint(), TensorFingerprint():
            pairs = [("shape", planned.shape, found.shape)]
            pairs += [("type", planned.dtype, found.dtype)] if dtypes else []
            ties = planned.same_as, found.same_as
            if ties[0] != ties[1]:
                said = [f"tied to {tie!r}" if tie else "not tied" for tie in ties]
                yield f"{_in_words(planned)} is {said[1]}, planned was {said[0]}"
        case ModuleFingerprint(), ModuleFingerprint():
            pairs = [("settings", planned.settings, found.settings)]
            if not _is_same_type(planned.type, found.type):
                pairs.insert(0, ("class", planned.type, found.type))
        case _:
            return
    yield from (
        f"{_in_words(planned)} has {what} {now}, planned was {then}"
        for what, then, now in pairs
        if then != now
    )


def _is_same_type(one: str, other: str) -> bool:
    """Whether two names are of one class, which a script knows as its own and others import."""
    if "__main__" not in (one.partition(".")[0], other.partition(".")[0]):
        return one == other
    return one.endswith(f".{other.removeprefix('__main__.')}") or other.endswith(
        f".{one.removeprefix('__main__.')}"
    )
