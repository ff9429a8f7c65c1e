"""Masks: which elements of which parameters to keep, read from whatever form the user has them in."""

from __future__ import annotations

import ctypes
import difflib
import hashlib
import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

import attrs
import torch
from torch import nn

from speedup import errors
from speedup.copying import ModuleT, copy_module
from speedup.mask_files import read_masks


def _owned(keep: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Private copies of the masks that mask anything."""
    for name, mask in keep.items():
        if mask.dtype is not torch.bool:
            raise errors.MaskError(f"mask for {name!r} is {mask.dtype}, not bool; use resolve_masks.")
    contiguous = {name: _compacted(mask).contiguous() for name, mask in keep.items() if not bool(mask.all())}
    return MappingProxyType({name: mask.clone() for name, mask in contiguous.items()})


@attrs.frozen(eq=False, repr=False)
class Masks(Mapping[str, torch.Tensor]):
    """An immutable mapping from canonical parameter names to keep-masks, compared and hashed by content.

    A canonical name is one that `model.named_parameters()` gives, the first for a tied parameter. A mask is
    a bool tensor, True where the parameter is kept, with the parameter's number of dimensions, each full or
    of size 1, as where all entries of a row are alike. Masks without a False are dropped. Do not write to
    the tensors.

    Args:
        keep: parameter name -> bool mask, copied; another dtype raises `MaskError`.

    Attributes:
        digest: SHA-256, in hex, of names, shapes and contents; the same in every process.
    """

    _keep: Mapping[str, torch.Tensor] = attrs.field(factory=dict, converter=_owned)
    digest: str = attrs.field(init=False)

    @digest.default
    def _digest_of_content(self) -> str:
        content = hashlib.sha256()
        for name in sorted(self._keep):
            mask = self._keep[name].cpu()
            content.update(f"{len(name)} {name} {tuple(mask.shape)} ".encode())
            # Reads the tensor's memory in place; it is contiguous, and alive as long as `mask`.
            content.update((ctypes.c_char * mask.numel()).from_address(mask.data_ptr()))
        return content.hexdigest()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._keep[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        return len(self._keep)

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Masks) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[type[Masks], tuple[dict[str, torch.Tensor]]]:
        return Masks, (dict(self._keep),)  # a mapping proxy can be neither pickled nor deep-copied

    def __repr__(self) -> str:
        return f"Masks({len(self)} masked parameters, digest={self.digest[:12]}...)"


MaskSource = Mapping[str, object] | str | os.PathLike[str] | Masks


def resolve_masks(model: nn.Module, masks: MaskSource | None) -> Masks:
    """Check masks in any accepted form against `model` and return them by canonical parameter name.

    Args:
        model: the model to mask; like `masks` it is not written, nor does the result share storage with it.
        masks: nothing; `{parameter: m}`; `{module: {"weight": m, "bias": m}}` as in NNI (Microsoft,
            `nni.compression`); both in one dict; a file of such a dict, by `torch.save` or, for parameter
            names only, `.safetensors`; or `Masks`. An `m` is None, or zeros and ones in any dtype; it has its
            parameter's number of dimensions, each full or of size 1, or is a scalar; it is on its parameter's
            device, or on the CPU if that is "meta" (from a file, array or list it is moved). Two for one tied
            parameter keep what both keep. With `torch.nn.utils.prune`, "weight" means "weight_orig".

    Raises:
        UnknownNameError: a name is that of no module or no parameter.
        MaskTargetError: a name is that of a buffer, or of a computed or uninitialised tensor.
        MaskShapeError, MaskValueError, MaskDeviceError: a mask does not fit its parameter.
        MaskFileError: the file is missing or damaged, or holds something other than a dict of tensors.
        MaskError: `masks`, or one of them, is of a type that cannot be read as masks.
    """
    if masks is None:
        return Masks()
    path = os.fspath(masks) if isinstance(masks, str | os.PathLike) else None
    given = masks if path is None else read_masks(path)
    if not isinstance(given, Mapping):
        raise errors.MaskError(f"masks: pass a dict, a path, Masks or None, not a {type(given).__name__}.")
    names = _Names.of(model)
    keep: dict[str, torch.Tensor] = {}
    for name, value in _by_full_name(given, names):
        parameter = names.parameters[_parameter_name(name, names)]
        mask = _checked(name, value, parameter, movable=path is not None)
        canonical = names.canonical[id(parameter)]
        keep[canonical] = keep[canonical] & mask if canonical in keep else mask
    if isinstance(masks, Masks) and all(masks.get(name) is mask for name, mask in keep.items()):
        return masks
    return Masks({name: keep[name] for name in names.canonical.values() if name in keep})


def apply_masks(model: ModuleT, masks: MaskSource | None) -> ModuleT:
    """Return the masked model, against which a smaller one is judged.

    It is a deep copy of `model` in which each masked parameter is zero where its mask says so, and nothing
    else differs: classes, hooks, flags, ties, dtypes, devices and `requires_grad` are kept. `model` is not
    written. Raises what `resolve_masks` raises, and `SpeedupError` if some part of `model` cannot be copied.
    """
    parameters = dict(model.named_parameters())
    replacements = {}
    for name, mask in resolve_masks(model, masks).items():
        old = parameters[name].detach()
        # A product would leave NaN and -0.0 behind; `out` keeps the parameter's memory format.
        new = torch.where(mask.to(old.device), old, old.new_zeros(()), out=torch.empty_like(old))
        replacements[id(parameters[name])] = new
    return copy_module(model, replacements)


@attrs.frozen(eq=False)
class _Names:
    """All names of a model that a mask could be given under."""

    parameters: Mapping[str, nn.Parameter]
    canonical: Mapping[int, str]
    buffers: Collection[str]
    modules: Mapping[str, nn.Module]

    @classmethod
    def of(cls, model: nn.Module) -> _Names:
        return cls(
            parameters=dict(model.named_parameters(remove_duplicate=False)),
            canonical={id(parameter): name for name, parameter in model.named_parameters()},
            buffers={name for name, _ in model.named_buffers(remove_duplicate=False)},
            modules=dict(model.named_modules(remove_duplicate=False)),
        )


def _by_full_name(given: Mapping[str, object], names: _Names) -> Iterator[tuple[str, object]]:
    """The masks that are not None, each under module and parameter name joined."""
    for key, value in given.items():
        if not isinstance(key, str):
            raise errors.MaskError(f"masks: a name must be a str, not {type(key).__name__} ({key!r}).")
        if not isinstance(value, Mapping):
            inner = {key: value}
        elif key in names.modules:
            inner = {f"{key}.{local}" if key else local: mask for local, mask in value.items()}
        else:
            raise errors.UnknownNameError(f"masks: there is no module {key!r}; {_near(key, names.modules)}")
        yield from ((name, mask) for name, mask in inner.items() if mask is not None)


def _near(name: str, known: Collection[str]) -> str:
    close = " or ".join(map(repr, difflib.get_close_matches(name, known, n=3, cutoff=0.5)))
    listed = ", ".join(map(repr, itertools.islice(known, 8))) or "none"
    return f"{f'did you mean {close}? ' if close else ''}There are {len(known)}: {listed}."


def _parameter_name(name: str, names: _Names) -> str:
    """The parameter that a mask called `name` is for."""
    if name in names.parameters:
        return name
    if f"{name}_orig" in names.parameters and f"{name}_mask" in names.buffers:
        return f"{name}_orig"
    path, _, local = name.rpartition(".")
    module = names.modules.get(path)
    original = f"{path}.parametrizations.{local}.original".lstrip(".")
    sources = [known for known in names.parameters if known.startswith(original)]
    sources += [known for suffix in ("_g", "_v", "_orig") if (known := name + suffix) in names.parameters]
    if sources:
        raise errors.MaskTargetError(
            f"mask for {name!r}: it is computed, and zeros need not survive that. Mask"
            f" {' or '.join(map(repr, sources))}, or see parametrize.remove_parametrizations,"
            " remove_weight_norm and remove_spectral_norm in torch.nn.utils."
        )
    if name in names.buffers or (module is not None and isinstance(vars(module).get(local), torch.Tensor)):
        kind = "a buffer" if name in names.buffers else "a plain tensor attribute"
        raise errors.MaskTargetError(f"mask for {name!r}: it is {kind}, no parameter. Drop this mask.")
    if name in names.modules:
        why = f"it is a module; name its parameter: {{{name!r}: {{'weight': mask}}}}."
    elif module is None:
        why = f"no module or parameter is called that; {_near(name, names.parameters)}"
    elif local in module._parameters:
        why = f"this {type(module).__name__} was made without {local!r} (it is None). Drop this mask."
    else:
        near = _near(local, dict(module.named_parameters()))
        why = f"this {type(module).__name__} has no parameter {local!r}; {near}"
    raise errors.UnknownNameError(f"mask for {name!r}: {why}")


def _checked(name: str, value: object, parameter: nn.Parameter, *, movable: bool) -> torch.Tensor:
    """`value` as a bool mask for `parameter`."""
    if nn.parameter.is_lazy(parameter):
        raise errors.MaskTargetError(f"mask for {name!r}: it is uninitialised; run the model once first.")
    if isinstance(value, torch.Tensor):
        mask = value if value.layout is torch.strided else value.to_dense()
    else:
        movable = True
        try:
            mask = torch.tensor(value, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(value).__name__
            raise errors.MaskError(f"mask for {name!r}: pass a tensor, not a {kind} ({error}).") from error
    fitted = _compacted(_fitted(name, mask, parameter.shape))
    return _binary(name, _placed(name, fitted, parameter.device, movable))


def _compacted(mask: torch.Tensor) -> torch.Tensor:
    """`mask` with one entry per row where its rows are uniform, as filter masks are."""
    if (
        mask.ndim < 2
        or mask.numel() == mask.shape[0]
        or not mask.numel()
        or mask.is_complex()
        or mask.is_meta
    ):
        return mask
    rows = mask.flatten(1)
    lowest = rows.amin(1)
    if not torch.equal(lowest, rows.amax(1)):
        return mask
    return lowest.reshape(-1, *[1] * (mask.ndim - 1))


def _fitted(name: str, mask: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """`mask` with as many dimensions as `shape`, each full or, also where it was expanded, of size 1."""
    if mask.ndim == 0:
        return mask.reshape((1,) * len(shape))
    # Each choice of dimensions of the parameter that those of the mask could be meant for.
    choices = itertools.combinations(range(len(shape)), mask.ndim)
    fits = [dims for dims in choices if all(mask.shape[i] in (1, shape[dim]) for i, dim in enumerate(dims))]
    if fits and mask.ndim == len(shape):
        for dim, stride in enumerate(mask.stride()):
            mask = mask.narrow(dim, 0, 1) if stride == 0 and mask.shape[dim] > 1 else mask
        return mask
    shapes = [[mask.shape[dims.index(d)] if d in dims else 1 for d in range(len(shape))] for dims in fits]
    advice = ": use " + " or ".join(f"mask.reshape{tuple(sizes)}" for sizes in shapes) if fits else ""
    raise errors.MaskShapeError(
        f"mask for {name!r} has shape {tuple(mask.shape)}, its parameter {tuple(shape)}. A mask needs as many"
        f" dimensions, each of its parameter's size or 1{advice}."
    )


def _placed(name: str, mask: torch.Tensor, device: torch.device, movable: bool) -> torch.Tensor:
    """`mask` where it belongs: with its parameter, or where its values can be read if that has none."""
    target = torch.device("cpu") if device.type == "meta" else device
    if mask.device == target or movable:
        return mask.to(target)
    where = f"is on '{mask.device}', its parameter on '{device}'"
    raise errors.MaskDeviceError(f"mask for {name!r} {where}; make the mask on '{target}'.")


def _binary(name: str, mask: torch.Tensor) -> torch.Tensor:
    """`mask` as bool, given that it holds only zeros and ones."""
    if mask.dtype is torch.bool:
        return mask
    ones = mask.eq(1)
    wrong = mask.ne(0).ne_(ones)
    if not bool(wrong.any()):
        return ones
    index = tuple(map(int, torch.unravel_index(wrong.flatten().to(torch.uint8).argmax(), mask.shape)))
    raise errors.MaskValueError(
        f"mask for {name!r} holds {mask[index].item()} at index {index}; {int(wrong.sum())} of its"
        f" {mask.numel()} elements are neither 0 nor 1. Binarise it first, for instance with mask > 0.5."
    )
