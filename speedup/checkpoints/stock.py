"""Is the small model one of the planned model's own class, made from a config with other sizes?

Which size of a config stands in which extent of which tensor is not written down anywhere: the class is made
without weights, once for each size that is changed. What is found is then tried out: a model that is so made
has to have the small model's tensors, and to trace to what the plan expects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.building.applying import hollow_copy
from speedup.building.binding import calls_on, require_architecture
from speedup.building.expected import actual_trace, first_difference
from speedup.cutting.tensors import planned_shapes
from speedup.errors import ArchitectureError, SpeedupError
from speedup.ir.edits import AdoptAttention, NewBias, RewriteForward
from speedup.ir.graph import Shape
from speedup.modules.copying import copy_module, held_tensors
from speedup.modules.fingerprints import TensorFingerprint, fingerprints_of
from speedup.modules.isolation import isolated, quiet
from speedup.plan import Plan
from speedup.tracing.islands import retrace

# Rounding in float32, in which norms compute.
_TOLERANCE = 1e-5
_SEED = 20_000
# Shapes alone do not tell fewer heads from smaller ones: the first solutions are tried out.
_MOST_SOLUTIONS = 4

# A dimension of a tensor, by the tensor's name.
_Place = tuple[str, int]
_Shapes = Mapping[str, Shape]


@frozen
class StockForm:
    """The small model is of the planned model's class, with other sizes.

    `sizes` are the entries of `config.json` that change. Each tensor named in `factors` is multiplied: an
    RMSNorm over fewer channels computes what it did if its weight and its epsilon are scaled.
    """

    architecture: str
    sizes: Mapping[str, Any]
    factors: Mapping[str, float]

    @property
    def loading(self) -> str:
        """How its folder is loaded, in words."""
        return f"loads with {self.architecture}.from_pretrained"

    @property
    def unscaled(self) -> OwnForm:
        """What the small model is while no weight is scaled."""
        return OwnForm("its weights are not scaled", tuple(self.sizes))


@frozen
class OwnForm:
    """No sizes in a config make the small model: the `reason`, and which `sizes` no longer are one number.

    `is_foreign` says that the config does not even make the planned model.
    """

    reason: str
    sizes: tuple[str, ...] = ()
    is_foreign: bool = False

    @property
    def loading(self) -> str:
        """How its folder is loaded, in words."""
        return f"no config has its sizes ({self.reason})"


def find_form(plan: Plan, config: Mapping[str, Any]) -> StockForm | OwnForm:
    """How the small model is told to transformers, given what `config.json` says of the planned one.

    No weights are read. Takes about as long as planning on the meta device.
    """
    with isolated(), quiet(), torch.no_grad():
        try:
            kind = stock_class(config)
        except Exception as error:  # what is installed may fail in any way when it is imported
            return OwnForm(f"transformers cannot be imported ({type(error).__name__}: {error})")
        if kind is None:
            named = architecture_of(config) or "what config.json names"
            return OwnForm(f"{named} is no class of transformers")
        try:
            full = kind.config_class.from_dict(dict(config)).to_dict()
            maker = _Maker(kind, full, _weight_type(plan))
            base = maker.model()
        except Exception as error:  # as a class does where its config is not right
            return OwnForm(f"its class refuses config.json: {error}")
        try:
            require_architecture(plan, base, fingerprints_of(base), dtypes=False)
        except ArchitectureError as error:
            return OwnForm(str(error), is_foreign=True)
        try:
            return _found(plan, config, maker, base)
        except SpeedupError as error:
            return OwnForm(str(error))


@frozen(eq=False)
class _Maker:
    """Makes models of a class without weights; `full` is the config with all that it leaves out.

    As transformers loads them, weights are of `dtype`, and what a class computes in a type of its own is not.
    """

    kind: Any
    full: Mapping[str, Any]
    dtype: torch.dtype
    attention: str | None = None

    def model(self, **sizes: Any) -> nn.Module:
        """Raises what the class does."""
        options = {} if self.attention is None else {"attn_implementation": self.attention}
        config = self.kind.config_class.from_dict({**self.full, **sizes}, **options)
        with torch.device("meta"), _by_default(self.dtype):
            made: nn.Module = self.kind(config)
        return made.eval()

    def shapes(self, **sizes: Any) -> _Shapes | None:
        """Those of the tensors; None if the class takes no such sizes."""
        try:
            return _shapes_of(self.model(**sizes))
        except Exception:  # a class raises anything where sizes do not fit together
            return None


def _weight_type(plan: Plan) -> torch.dtype:
    """The type of the planned weights; torch's default where they are of several."""
    known = (f for f in plan.subject.fingerprints if isinstance(f, TensorFingerprint))
    weights = (f for f in known if f.role in ("parameter", None) and f.dtype.is_floating_point)
    types = {weight.dtype for weight in weights}
    return types.pop() if len(types) == 1 else torch.get_default_dtype()


@contextmanager
def _by_default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def architecture_of(config: Mapping[str, Any]) -> str:
    """The name of the one class that a config names; empty where it does not name one."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and len(named) == 1 else ""


def stock_class(config: Mapping[str, Any]) -> Any:
    """The class of transformers that a config names; None if there is none of that name.

    Raises what importing transformers does.
    """
    import transformers

    found: Any = getattr(transformers, architecture_of(config), None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_model else None


def _shapes_of(model: nn.Module) -> _Shapes:
    return {name: tuple(tensor.shape) for name, tensor in held_tensors(model).items()}


def _found(plan: Plan, config: Mapping[str, Any], maker: _Maker, base: nn.Module) -> StockForm | OwnForm:
    other = next((e for e in plan.edits if isinstance(e, NewBias | AdoptAttention)), None)
    if other is not None:
        what = f"has a bias {other.name!r}" if isinstance(other, NewBias) else f"computes {other.path!r}"
        return OwnForm(f"the small model {what} as its class never does")
    before = _shapes_of(base)
    after = planned_shapes(before, plan.edits)
    equations = _equations(maker, before, after)
    if isinstance(equations, OwnForm):
        return equations
    small = hollow_copy(base, plan.edits, "cpu")
    reason = "no sizes in its config make it"
    for ratios in solutions(equations.values, equations.factors):
        sizes = {name: int(equations.values[name] * ratio) for name, ratio in ratios.items()}
        found = _tried(plan, maker, sizes, after, small, before)
        if isinstance(found, StockForm):
            # What config.json leaves out may follow from other sizes by default, and no longer does.
            names = {*equations.values, "head_dim"} & maker.full.keys()
            told = {**{name: maker.full[name] for name in names}, **found.sizes}
            return attrs.evolve(found, sizes={n: v for n, v in told.items() if config.get(n, ...) != v})
        reason = found
    return OwnForm(reason, tuple(equations.values))


@frozen(eq=False)
class _Equations:
    """By changed place what its extent is multiplied by, and the sizes that it is proportional to."""

    values: Mapping[str, int]
    factors: Mapping[_Place, tuple[Fraction, frozenset[str]]]

    def conflict(self) -> tuple[str, str] | None:
        """A size that two places disagree on, and where, in words."""
        first: dict[str, tuple[Fraction, _Place]] = {}
        for place, (ratio, sizes) in self.factors.items():
            if len(sizes) == 1:
                (size,) = sizes
                known = first.setdefault(size, (ratio, place))
                if known[0] != ratio:
                    return size, f"{known[1][0]!r} and {place[0]!r}"
        return None


def solutions(
    values: Mapping[str, int], factors: Mapping[_Place, tuple[Fraction, frozenset[str]]]
) -> Iterator[Mapping[str, Fraction]]:
    """What each size is to be multiplied by so that the extents follow, the first few ways.

    `factors` has by place what its extent is multiplied by, and the sizes that it is proportional to. Sizes
    that stand in most places stay if they can.
    """
    many = {name: sum(name in sizes for _, sizes in factors.values()) for name in values}
    order = sorted(values, key=lambda name: -many[name])
    whole = (
        ratios
        for ratios in _solved(factors, {}, order)
        if all((values[name] * ratio).denominator == 1 for name, ratio in ratios.items())
    )
    return islice(whole, _MOST_SOLUTIONS)


def _solved(
    factors: Mapping[_Place, tuple[Fraction, frozenset[str]]],
    known: Mapping[str, Fraction],
    order: Sequence[str],
) -> Iterator[Mapping[str, Fraction]]:
    known = dict(known)
    settled = False
    while not settled:
        settled = True
        for ratio, sizes in factors.values():
            left, rest = [size for size in sizes if size not in known], ratio
            for size in sizes & known.keys():
                rest /= known[size]
            if not left and rest != 1:
                return
            if len(left) == 1:
                known[left[0]], settled = rest, False
    free = [name for name in order if name not in known]
    if not free:
        yield known
    for stays in free:
        yield from _solved(factors, {**known, stays: Fraction(1)}, order)


def _equations(maker: _Maker, before: _Shapes, after: _Shapes) -> _Equations | OwnForm:
    values = dict(_sizes(maker, before, after))
    # Those that are left to their default do not follow others any more.
    maker = attrs.evolve(maker, full={**maker.full, **values})
    probes = {name: found for name, size in values.items() if (found := _probed(maker, name, size, before))}
    places = [(name, dim) for name, shape in before.items() for dim in range(len(shape))]
    factors: dict[_Place, tuple[Fraction, frozenset[str]]] = {}
    for place in places:
        name, dim = place
        ratio = Fraction(after[name][dim], before[name][dim]) if before[name][dim] else Fraction(1)
        sizes = frozenset(size for size, found in probes.items() if place in found)
        if ratio != 1 and not sizes:
            return OwnForm(f"dimension {dim} of {name!r} follows from no size in the config")
        if sizes:
            factors[place] = ratio, sizes
    told = frozenset(size for _, sizes in factors.values() for size in sizes)
    equations = _Equations({name: size for name, size in values.items() if name in told}, factors)
    conflict = equations.conflict()
    if conflict is not None:
        size, where = conflict
        return OwnForm(f"{size} differs between layers, as between {where}", (size,))
    return equations


def _sizes(maker: _Maker, before: _Shapes, after: _Shapes) -> Iterator[tuple[str, int]]:
    """Entries of the config that may be a factor of an extent that changes, with what they are."""
    extents = {n for name in before for n, m in zip(before[name], after[name], strict=True) if n != m}
    for name, value in maker.full.items():
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            if any(extent % value == 0 for extent in extents):
                yield name, value
        elif value is None:
            # One that is left to its default: what it comes to is what changes nothing, where others do.
            for extent in sorted(extents):
                if maker.shapes(**{name: 2 * extent}) in (None, before):
                    break
                if maker.shapes(**{name: extent}) == before:
                    yield name, extent
                    break


def _probed(maker: _Maker, name: str, size: int, before: _Shapes) -> frozenset[_Place]:
    """The places that are proportional to a size of the config; none if it is not proportional everywhere."""
    for other in (2 * size, 3 * size, size // 2 if size % 2 == 0 else size + 1):
        shapes = maker.shapes(**{name: other})
        if shapes is None or shapes.keys() != before.keys():
            continue
        changed = {
            (tensor, dim)
            for tensor, shape in before.items()
            for dim, extent in enumerate(shape)
            if shapes[tensor][dim] != extent
        }
        if all(shapes[t][dim] * size == before[t][dim] * other for t, dim in changed):
            return frozenset(changed)
        return frozenset()
    return frozenset()


def _tried(
    plan: Plan, maker: _Maker, sizes: Mapping[str, int], after: _Shapes, small: nn.Module, before: _Shapes
) -> StockForm | str:
    """The form with these sizes, or why it is none."""
    changed: dict[str, Any] = {n: v for n, v in sizes.items() if maker.full[n] != v}
    paths = [edit.path for edit in plan.edits if isinstance(edit, RewriteForward)]
    ratios = {_norm_ratio(small, path, before) for path in paths}
    if len(ratios) > 1 or None in ratios:
        return f"the forward of {paths[0]!r} is another one"
    ratio = next(iter(ratios), None)
    if ratio is not None:
        epsilons = {n: v for n, v in maker.full.items() if isinstance(v, float) and "eps" in n}
        changed.update({name: value * ratio for name, value in epsilons.items()})
    try:
        stock = maker.model(**changed)
    except Exception as error:  # a class raises anything where sizes do not fit together
        return f"its class refuses {_told(changed)}: {error}"
    if _shapes_of(stock) != after:
        return f"its class makes other tensors of {_told(changed)}"
    factors = {} if ratio is None else {f"{path}.weight": math.sqrt(ratio) for path in paths}
    other = next((path for path in paths if not _computes_the_same(small, stock, path, factors)), None)
    if other is not None:
        return f"the forward of {other!r} is another one"
    different = _difference(plan, stock)
    if different is None:
        return StockForm(maker.kind.__name__, changed, factors)
    eager = attrs.evolve(maker, attention="eager")
    if maker.attention is None and _difference(plan, eager.model(**changed)) is None:
        return StockForm(maker.kind.__name__, changed, factors)
    return f"its class computes something else with {_told(changed)}: {different}"


def _told(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sizes.items()) or "the same sizes"


def _difference(plan: Plan, stock: nn.Module) -> str | None:
    subject = calls_on(plan.subject, torch.device("meta"))
    graph = retrace(stock, subject.calls, subject.islands).graph
    found = first_difference(plan.expected, actual_trace(graph, plan.expected.opaque))
    return None if found is None else found.words


def _norm_ratio(small: nn.Module, path: str, before: _Shapes) -> float | None:
    """Of how many channels for each that is left the module `path` has its mean; None if it is no norm."""
    held = dict(small.get_submodule(path).named_parameters())
    if held.keys() != {"weight"} or held["weight"].ndim != 1:
        return None
    return before[f"{path}.weight"][0] / held["weight"].shape[0]


def _computes_the_same(small: nn.Module, stock: nn.Module, path: str, factors: Mapping[str, float]) -> bool:
    """Whether both modules agree on random inputs, large and small, once the weight is scaled."""
    generator = torch.Generator().manual_seed(_SEED)
    one, other = small.get_submodule(path), stock.get_submodule(path)
    weight = torch.rand(one.get_parameter("weight").shape, generator=generator) + 0.5
    x = torch.randn(5, len(weight), generator=generator) * torch.logspace(-5, 3, 5)[:, None]
    try:
        wanted = _with_weight(one, weight)(x)
        found = _with_weight(other, weight * factors[f"{path}.weight"])(x)
    except Exception:  # modules that take something else than rows are no norms
        return False
    return isinstance(found, Tensor) and torch.allclose(found, wanted, rtol=_TOLERANCE, atol=0)


def _with_weight(module: nn.Module, weight: Tensor) -> Callable[[Tensor], Any]:
    return copy_module(module, {id(module.get_parameter("weight")): weight})
