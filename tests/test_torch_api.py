"""What is not public in torch does what it is taken for, and is taken in one place."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNormLoadStateDictPreHook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import speedup
from speedup import torch_api
from speedup.torch_api import (
    CALL_IMPL,
    COPY,
    CUSTOM,
    DEVICE_OF,
    PROFILING,
    QKV_SAME_EMBED_DIM,
    STATE_METADATA,
    SYMBOLIC_MATH,
    TO_COPY,
    TYPE_CHECK,
    WRAPPED_CALL_IMPL,
    BatchNorm,
    ConvNd,
    ConvTransposeNd,
    DependsOnDataError,
    DisableTorchFunction,
    FakeTensorMode,
    InstanceNorm,
    NormBase,
    Overload,
    Packet,
    ProxyTorchDispatchMode,
    Schema,
    TreeSpec,
    WeakTensorKeyDictionary,
    disable_current_modes,
    enable_python_dispatcher,
    exporting_state,
    fake_like,
    fx_config,
    get_proxy_mode,
    get_proxy_slot,
    has_known_numbers,
    hollow_tensor,
    is_alias_of,
    is_fake,
    is_transformed,
    load_pre_hooks_of,
    make_subclass,
    modules_of,
    parameters_of,
    pre_hooks_of,
    pruned_name_of,
    schema_of,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_structure,
    tree_unflatten,
    unsaved_buffers_of,
    use_lazy_graph_module,
    version_of,
)
from tests.support.private_names import private_uses

ATEN = torch.ops.aten
ROOT = Path(speedup.__file__).parent
HOME = ROOT / "torch_api.py"
STRANGER = torch.ones(1)


class Called(TorchFunctionMode):
    """Notes the names of the functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


class Watching(nn.Module):
    """Looks at the trace that it is part of, and notes something on the node of its ReLU."""

    def __init__(self, seen: dict[str, Any]) -> None:
        super().__init__()
        # In a function, since torch.export takes back what a forward assigns.
        self.note = seen.update

    def forward(self, x: Tensor) -> Tensor:
        y = x.relu()
        mode = get_proxy_mode()
        if mode is not None:
            self.note(fake=is_fake(y))
            slot: Any = get_proxy_slot(y, mode.tracer, None)
            self.note(node=slot.proxy.node, last=next(iter(reversed(mode.tracer.graph.nodes))))
            self.note(stranger=get_proxy_slot(STRANGER, mode.tracer, None))
            slot.proxy.node.meta.setdefault(CUSTOM, {})["note"] = "here"
        return y + 1


@cache
def watched() -> tuple[dict[str, Any], ExportedProgram]:
    seen: dict[str, Any] = {}
    return seen, torch.export.export(Watching(seen), (torch.randn(2, 3),), strict=False)


def overload() -> None:
    assert isinstance(ATEN.add.Tensor, Overload) and not isinstance(ATEN.add, Overload)
    assert ATEN.add.Tensor.overloadpacket == ATEN.add and str(ATEN.add.Tensor) == "aten.add.Tensor"
    assert all(isinstance(n.target, Overload) for n in watched()[1].graph.nodes if n.op == "call_function")


def packet() -> None:
    assert isinstance(ATEN.add, Packet) and not isinstance(ATEN.add.Tensor, Packet)
    assert {ATEN.add: 1}[ATEN.add.Tensor.overloadpacket] == 1


def schema() -> None:
    found = schema_of(ATEN.add.Tensor)
    assert isinstance(found, Schema)
    assert (found.name, found.overload_name, found.is_mutable) == ("aten::add", "Tensor", False)
    assert schema_of(ATEN.relu.default).overload_name == ""
    first, _, last = found.arguments
    assert (first.name, first.kwarg_only, first.has_default_value()) == ("self", False, False)
    assert (last.name, last.kwarg_only, last.default_value) == ("alpha", True, 1)
    assert "Tensor" in str(first.type) and "Tensor" not in str(last.type)


def schema_tells_what_is_written_and_shared() -> None:
    schema()
    writing = schema_of(ATEN.add_.Tensor)
    written, read, _ = (p.alias_info for p in writing.arguments)
    assert writing.is_mutable and written is not None and written.is_write and read is None
    assert schema_of(ATEN.view.default).returns[0].alias_info is not None
    assert schema_of(ATEN.relu.default).returns[0].alias_info is None


def a_copy() -> None:
    x = torch.arange(3.0)
    assert torch.equal(COPY(x), x)
    assert str(COPY) == "aten.alias.default"


def to_copy() -> None:
    assert TO_COPY(torch.tensor(3), dtype=torch.float64).dtype is torch.float64
    assert str(TO_COPY) == "aten._to_copy.default"


def symbolic_math() -> None:
    class Read(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * SYMBOLIC_MATH["sqrt"](x.sum().item())

    program = torch.export.export(Read(), (torch.randn(2),), strict=False)
    assert SYMBOLIC_MATH["sqrt"] in {node.target for node in program.graph.nodes}
    for name, function in SYMBOLIC_MATH.items():
        assert function(0.5) == getattr(math, name)(0.5)


def trees() -> None:
    call = ((1, [torch.ones(2), "a"]), {"k": None, "b": {"c": 3.0}})
    leaves, spec = tree_flatten(call)
    assert isinstance(spec, TreeSpec) and spec == tree_structure(call)
    assert [type(leaf) for leaf in leaves] == [int, Tensor, str, type(None), float]
    assert all(one is other for one, other in zip(leaves, tree_leaves(call), strict=True))
    others = [2, torch.zeros(3), "b", None, 4.0]
    assert tree_unflatten(others, spec) == ((2, [others[1], "b"]), {"k": None, "b": {"c": 4.0}})
    assert str(tree_structure(tree_unflatten(others, spec))) == str(spec)
    assert tree_map(str, ((1, [2]), {"k": None})) == (("1", ["2"]), {"k": "None"})
    assert tree_structure([1, (2,)]) != tree_structure((1, [2]))


def known_numbers() -> None:
    with FakeTensorMode():
        made = torch.tensor(3)
        assert has_known_numbers(made) and has_known_numbers(made > 2) and bool(made > 2)
        assert not has_known_numbers(torch.empty(2)) and not has_known_numbers(torch.empty(2) > 2)


def fake() -> None:
    assert watched()[0]["fake"] and not is_fake(torch.ones(2)) and not is_fake(torch.ones(2, device="meta"))


def proxy_mode() -> None:
    assert get_proxy_mode() is None
    assert watched()[0]["last"] is watched()[0]["node"]


def proxy_slot() -> None:
    assert isinstance(watched()[0]["node"], Node) and watched()[0]["node"].target is ATEN.relu.default
    assert watched()[0]["stranger"] is None


def custom() -> None:
    program = watched()[1]
    for graph in (program.graph, program.run_decompositions({}).graph):
        notes = {str(n.target): n.meta.get(CUSTOM) for n in graph.nodes if n.op == "call_function"}
        assert notes["aten.relu.default"] == {"note": "here"} and not notes["aten.add.Tensor"]


def disable_modes() -> None:
    class Summing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with DisableTorchFunction(), disable_current_modes():
                seen.append(float(STRANGER.sum() + 1))
            return x + 1

    seen: list[float] = []
    program = torch.export.export(Summing(), (torch.ones(2),), strict=False)
    assert seen == [2.0]
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [ATEN.add.Tensor]


def disable_torch_function() -> None:
    with Called() as called:
        with DisableTorchFunction():
            torch.ones(1).relu()
        assert called.names == []
        torch.ones(1)
    assert called.names == ["ones"]


def lazy_graph_module() -> None:
    eager = fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    with use_lazy_graph_module(True):
        lazy = fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    assert isinstance(lazy, fx.GraphModule) and "_code" in vars(eager) and "_code" not in vars(lazy)
    assert torch.equal(lazy(torch.tensor([-1.0, 1.0])), torch.tensor([0.0, 1.0]))


def config(monkeypatch: pytest.MonkeyPatch) -> None:
    def traces() -> int:
        program = torch.export.export(nn.ReLU(), (torch.randn(2),), strict=False)
        return sum(bool(node.meta.get("stack_trace")) for node in program.graph.nodes)

    assert traces()
    monkeypatch.setattr(fx_config, "do_not_emit_stack_traces", True)
    assert not traces()


def proxy_dispatch_mode() -> None:
    class Watching(ProxyTorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen: list[Any] = []
    own: Any = object()
    with enable_python_dispatcher(), Watching(own, "real", pre_dispatch=True) as mode:
        assert get_proxy_mode() is mode and mode.tracer is own
        y = nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3))
        torch.arange(3)
        y.relu_()
        y.is_cuda  # noqa: B018
    # Before a linear layer is taken apart, and nothing that it is made of.
    assert [f for f in seen if f is not ATEN.ones.default] == [
        *(ATEN.linear.default, ATEN.arange.default, ATEN.relu_.default)
    ]
    assert get_proxy_mode() is None


def fakes() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, enable_python_dispatcher():
        for given in (
            nn.Parameter(torch.randn(2, 3).t()),
            torch.randn(3, dtype=torch.float64),
            torch.ones(2),
        ):
            hollow, usual = fake_like(given, mode), mode.from_tensor(given, static_shapes=True)
            assert is_fake(hollow) and isinstance(hollow, nn.Parameter) == isinstance(given, nn.Parameter)
            for told in ("shape", "dtype", "device", "requires_grad", "is_leaf"):
                assert getattr(hollow, told) == getattr(given, told) == getattr(usual, told)
            assert hollow.stride() == given.stride()
            assert (hollow + given).shape == given.shape
        for reading in (lambda t: t.sum().item(), lambda t: t.nonzero(), lambda t: bool(t.sum() > 0)):
            with pytest.raises(DependsOnDataError):
                reading(hollow)
        assert torch.tensor(3).item() == 3


def hollow_tensors() -> None:
    made = []
    seen: list[Any] = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with FakeTensorMode() as mode, Watching():
        for _ in range(2):
            made.append(hollow_tensor((2, 3), (1, 2), torch.float64, torch.device("cpu"), mode))
        assert not seen
        one, other = made
        assert is_fake(one) and (one.shape, one.stride()) == ((2, 3), (1, 2))
        assert (one.dtype, one.device) == (torch.float64, torch.device("cpu"))
        assert is_alias_of(one, one.t()) and not is_alias_of(one, other)
        assert (one + other).shape == (2, 3) and seen


def exporting() -> None:
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.is_autocast_cache_enabled()
    with pytest.raises(ZeroDivisionError), exporting_state():
        assert torch.compiler.is_exporting() and torch.compiler.is_compiling()
        assert not (torch.backends.mkldnn.enabled or torch.backends.cudnn.enabled)
        assert not torch.is_autocast_cache_enabled()
        raise ZeroDivisionError
    assert not (torch.compiler.is_exporting() or torch.compiler.is_compiling())
    after = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.is_autocast_cache_enabled()
    assert after == before


def weak_keys() -> None:
    held: Any = WeakTensorKeyDictionary()
    one, same = torch.ones(2), torch.ones(2)
    held[one] = "one"
    assert held.get(one) == "one" and held.get(same) is None
    del one
    assert not len(held)


def profiling() -> None:
    class Profiled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.profiler.record_function("here"):
                return x + 1

    # Its own pass takes out what these are told of, by their names.
    nodes = torch.export.export(Profiled(), (torch.randn(2),), strict=False).graph.nodes
    assert [n.target for n in nodes if n.op == "call_function"] == [ATEN.add.Tensor]
    assert all(isinstance(one, Overload | torch._ops.TorchBindOpOverload) for one in PROFILING)


def device_of() -> None:
    assert DEVICE_OF is torch.ops.prim.device.default and isinstance(DEVICE_OF, Overload)


def type_check() -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(torch.float64)

    nodes = torch.export.export(Cast(), (torch.randn(2),), strict=False).graph.nodes
    check, cast = (node for node in nodes if node.op == "call_function")
    assert check.target is TYPE_CHECK and check.args == cast.args[:1] and not check.users
    assert check.kwargs == {"dtype": torch.float32, "device": torch.device("cpu"), "layout": torch.strided}


def convolutions() -> None:
    kinds: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for kind in (*kinds, *transposed):
        layer: Any = kind(4, 6, 1, groups=2)
        assert isinstance(layer, ConvNd) and isinstance(layer, ConvTransposeNd) == (kind in transposed)
        assert (layer.in_channels, layer.out_channels, layer.groups) == (4, 6, 2)
        assert layer.transposed == (kind in transposed) and len(layer.output_padding) == layer.weight.ndim - 2
    assert not isinstance(nn.Linear(1, 1), ConvNd)


def norms() -> None:
    of_batch, of_instance = nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)
    assert isinstance(of_batch, BatchNorm) and not isinstance(of_batch, InstanceNorm)
    assert isinstance(of_instance, InstanceNorm) and not isinstance(of_instance, BatchNorm)
    for layer in (of_batch, of_instance):
        assert isinstance(layer, NormBase) and layer.num_features == 3
        assert layer.running_mean is not None and layer.running_var is not None


def modules() -> None:
    layer, model = nn.Linear(1, 1), nn.Module()
    model.first, model.again = layer, layer
    model.register_module("left_out", None)
    assert modules_of(model) == {"first": layer, "again": layer, "left_out": None}


def parameters() -> None:
    layer = nn.Linear(2, 2, bias=False)
    assert dict(parameters_of(layer)) == {"weight": layer.weight, "bias": None}


def unsaved_buffers() -> None:
    layer = nn.Linear(1, 1)
    layer.register_buffer("kept", torch.ones(1))
    layer.register_buffer("left", torch.ones(1), persistent=False)
    assert (
        unsaved_buffers_of(layer) == {"left"} == {n for n, _ in layer.named_buffers()} - {*layer.state_dict()}
    )


def state_metadata() -> None:
    metadata = getattr(nn.BatchNorm1d(2).state_dict(), STATE_METADATA)
    assert metadata[""]["version"] == nn.BatchNorm1d(2)._version == 2


def pre_hooks() -> None:
    layer = nn.Linear(2, 2)
    prune.identity(layer, "weight")
    (hook,) = pre_hooks_of(layer).values()
    assert isinstance(hook, prune.BasePruningMethod) and pruned_name_of(hook) == "weight"


def load_pre_hooks() -> None:
    layer = nn.utils.spectral_norm(nn.Linear(2, 2))
    (hook,) = load_pre_hooks_of(layer).values()
    assert isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook)


class Framed(nn.Module):
    """Tells what code runs between the caller and the forward."""

    def forward(self) -> list[Any]:
        found, frame = [], sys._getframe().f_back
        while frame is not None and frame.f_code is not call_impl.__code__:
            found.append(frame.f_code)
            frame = frame.f_back
        return found


def call_impl() -> None:
    assert Framed()() == [CALL_IMPL, WRAPPED_CALL_IMPL]


def same_embed_dim() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    assert vars(layer.self_attn)[QKV_SAME_EMBED_DIM] is True
    assert nn.TransformerEncoder(layer, 1).use_nested_tensor
    vars(layer.self_attn)[QKV_SAME_EMBED_DIM] = False
    with pytest.warns(UserWarning, match=f"{QKV_SAME_EMBED_DIM} was not True"):
        assert not nn.TransformerEncoder(layer, 1).use_nested_tensor


def subclass() -> None:
    class Named(nn.Parameter):
        def __init__(self, name: str) -> None:
            raise AssertionError(name)

    data = torch.ones(2, 2)
    made = make_subclass(Named, data, False)
    assert type(made) is Named and made.data_ptr() == data.data_ptr()
    assert not made._is_view() and not made.requires_grad and made.is_leaf


def version() -> None:
    tensor = torch.ones(2)
    before = version_of(tensor)
    tensor.add_(1)
    assert version_of(tensor) == before + 1


def transformed() -> None:
    seen: list[bool] = []

    def noted(x: torch.Tensor) -> torch.Tensor:
        seen.append(is_transformed(x))
        return x

    torch.func.vmap(noted)(torch.ones(2))
    assert seen == [True] and not is_transformed(torch.ones(2))


def packages() -> None:
    """That they compile and load is what the recipe ahead_of_time shows."""
    from torch import _inductor

    assert "package_path" in inspect.signature(_inductor.aoti_compile_and_package).parameters
    assert "path" in inspect.signature(_inductor.aoti_load_package).parameters


PROBES: Mapping[str, Callable[..., None]] = {
    "Overload": overload,
    "Packet": packet,
    "Schema": schema,
    "schema_of": schema_tells_what_is_written_and_shared,
    "COPY": a_copy,
    "TO_COPY": to_copy,
    "SYMBOLIC_MATH": symbolic_math,
    **dict.fromkeys(("TreeSpec", "tree_flatten", "tree_unflatten", "tree_leaves", "tree_structure"), trees),
    "TYPE_CHECK": type_check,
    "ProxyTorchDispatchMode": proxy_dispatch_mode,
    **dict.fromkeys(("FakeTensorMode", "DependsOnDataError", "fake_like", "enable_python_dispatcher"), fakes),
    **dict.fromkeys(("hollow_tensor", "is_alias_of"), hollow_tensors),
    "has_known_numbers": known_numbers,
    "exporting_state": exporting,
    "WeakTensorKeyDictionary": weak_keys,
    "DEVICE_OF": device_of,
    "PROFILING": profiling,
    "get_proxy_mode": proxy_mode,
    "get_proxy_slot": proxy_slot,
    "is_fake": fake,
    "CUSTOM": custom,
    "tree_map": trees,
    "disable_current_modes": disable_modes,
    "DisableTorchFunction": disable_torch_function,
    "use_lazy_graph_module": lazy_graph_module,
    "fx_config": config,
    "ConvNd": convolutions,
    "ConvTransposeNd": convolutions,
    "NormBase": norms,
    "BatchNorm": norms,
    "InstanceNorm": norms,
    "modules_of": modules,
    "parameters_of": parameters,
    "unsaved_buffers_of": unsaved_buffers,
    "STATE_METADATA": state_metadata,
    "pre_hooks_of": pre_hooks,
    "load_pre_hooks_of": load_pre_hooks,
    "pruned_name_of": pre_hooks,
    "CALL_IMPL": call_impl,
    "WRAPPED_CALL_IMPL": call_impl,
    "QKV_SAME_EMBED_DIM": same_embed_dim,
    "make_subclass": subclass,
    "version_of": version,
    "is_transformed": transformed,
    "compile_package": packages,
    "load_package": packages,
}


@pytest.mark.parametrize("name", torch_api.__all__)
def test_torch_has_it_and_it_does_what_it_is_taken_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = PROBES[name]
    probe(*(monkeypatch for _ in range(probe.__code__.co_argcount)))


@pytest.mark.parametrize(
    "file", [f for f in sorted(ROOT.rglob("*.py")) if f != HOME], ids=lambda f: str(f.relative_to(ROOT))
)
def test_no_other_module_has_a_private_name_from_torch(file: Path) -> None:
    assert private_uses(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch._C.Size", ["torch._C", "torch._C.Size"]),
        (
            "import torch\ndef f(x: torch._ops.OpOverload) -> None: ...",
            ["torch._ops", "torch._ops.OpOverload"],
        ),
        ("from torch import nn\nnn.Module._call_impl", ["torch.nn.Module._call_impl"]),
        ("from torch import nn as n\nn.Module._call_impl", ["torch.nn.Module._call_impl"]),
        ("from torch.nn.modules.conv import _ConvNd", ["torch.nn.modules.conv._ConvNd"]),
        ("def f():\n    from torch.utils import _pytree as tree", ["torch.utils._pytree"]),
        ("import torch._dynamo", ["torch._dynamo"]),
        ("import torch.fx.config", ["torch.fx.config"]),
        (
            "from torch.fx.experimental import symbolic_shapes",
            ["torch.fx.experimental.symbolic_shapes"],
        ),
        ("target._schema.name", ["target._schema"]),
        ("op.target._schema", ["op.target._schema"]),
        ("find()._schema", ["find()._schema"]),
        ("getattr(torch, f'_sym_{name}')", ["getattr(torch, f'_sym_{name}')"]),
        ("getattr(found, '_modules', {})", ["getattr(found, '_modules', {})"]),
    ],
)
def test_private_names_are_found_however_they_are_written(source: str, found: list[str]) -> None:
    assert private_uses(source) == found


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.ops.aten.add.Tensor, torch.Tag, torch.__file__",
        "from torch.fx import Node\nNode.meta",
        "class A:\n    _kept: int\n    def __eq__(self, other):\n        return self._kept == other._kept",
        "import sys\nsys._getframe(1)",
    ],
)
def test_public_names_and_the_librarys_own_are_let_be(source: str) -> None:
    assert private_uses(source) == []
