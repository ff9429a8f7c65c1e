"""Layers with sparse weights compute what theirs computed, whatever is done to them."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speedup.errors import SparseTrainingError
from speedup.sparse.layers import SparseConv1D, SparseConv2d, SparseLinear, sparse_class_of
from speedup.sparse.weight import SparseModule
from tests.support.sparse import blocky, conv1d, sparse_layer, thinned

LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (nn.Linear(32, 48), torch.randn(3, 5, 32)),
    "linear, one vector": lambda: (nn.Linear(32, 48), torch.randn(1, 32)),
    "linear, many vectors": lambda: (nn.Linear(32, 48), torch.randn(3, 67, 32)),
    "linear without bias": lambda: (nn.Linear(32, 48, bias=False), torch.randn(7, 32)),
    "linear, no vectors": lambda: (nn.Linear(32, 48), torch.randn(0, 32)),
    "convolution": lambda: (nn.Conv2d(32, 48, 1), torch.randn(2, 32, 5, 4)),
    "convolution, large images": lambda: (nn.Conv2d(32, 48, 1), torch.randn(2, 32, 13, 11)),
    "convolution, one image": lambda: (nn.Conv2d(32, 48, 1), torch.randn(32, 5, 4)),
    "convolution with stride": lambda: (nn.Conv2d(32, 48, 1, stride=2, bias=False), torch.randn(2, 32, 5, 4)),
    "convolution, channels last": lambda: (
        nn.Conv2d(32, 48, 1),
        torch.randn(2, 32, 5, 4).to(memory_format=torch.channels_last),
    ),
    "transposed": lambda: (conv1d(32, 48), torch.randn(3, 5, 32)),
}
MAKE: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(16, 8),
    "convolution": lambda: nn.Conv2d(16, 8, 1),
    "transposed": lambda: conv1d(16, 8),
}
KERNELS = {
    "csr": ("csr", 1, False),
    "bags": ("bags", 1, False),
    "bsr": ("bsr", 8, False),
    "bsr, permuted": ("bsr", 8, True),
}


@pytest.fixture(params=LAYERS)
def layer_and_input(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    layer, x = LAYERS[request.param]()
    return layer.double().eval(), x.double()


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("how", KERNELS)
def test_sparse_layer_computes_what_the_layer_does(
    layer_and_input: tuple[nn.Module, Tensor], how: str
) -> None:
    layer, x = layer_and_input
    blocky(layer, 8)
    made = sparse_layer(layer, *KERNELS[how])
    assert (made.weight_row_order is not None) == (how == "bsr, permuted")
    with torch.no_grad():
        found, wanted = made(x), layer(x)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    assert found.is_contiguous() == wanted.is_contiguous()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", KERNELS)
def test_sparse_layer_computes_in_float32_what_the_layer_does(
    layer_and_input: tuple[nn.Module, Tensor], how: str
) -> None:
    layer, x = layer_and_input
    layer, x = blocky(layer, 8).float(), x.float()
    made = sparse_layer(layer, *KERNELS[how])
    with torch.no_grad():
        torch.testing.assert_close(made(x), layer(x))
        strided = x.flip(0).transpose(0, -1).contiguous().transpose(0, -1)
        if isinstance(made, SparseConv1D):
            # It does not take vectors that lie apart.
            for one in (layer, made):
                with pytest.raises(RuntimeError, match="view size is not compatible"):
                    one(strided)
        else:
            torch.testing.assert_close(made(strided), layer(strided))


@pytest.mark.parametrize("how", KERNELS)
def test_dense_is_the_layer_as_it_was(layer_and_input: tuple[nn.Module, Tensor], how: str) -> None:
    layer, x = layer_and_input
    blocky(layer, 8)
    layer.weight.requires_grad_(False)
    layer.register_forward_hook(lambda module, args, output: output + 1)
    again = sparse_layer(layer, *KERNELS[how]).dense()
    assert type(again) is type(layer)
    assert repr(again) == repr(layer)
    assert [*again.state_dict()] == [*layer.state_dict()]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), layer.parameters(), strict=True))
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in layer.parameters()]
    assert torch.equal(again(x), layer(x))


def test_weight_without_any_element_and_one_without_zeros() -> None:
    for share in (1.0, 0.0):
        layer = thinned(nn.Linear(16, 8).eval(), share)
        made = sparse_layer(layer, "csr")
        assert made.zeros == share
        with torch.no_grad():
            torch.testing.assert_close(made(torch.ones(2, 16)), layer(torch.ones(2, 16)))


def test_hooks_and_flags_stay() -> None:
    layer = thinned(nn.Linear(16, 8), 0.8)
    seen: list[int] = []
    layer.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    made = sparse_layer(layer, "csr")
    assert issubclass(type(made), nn.Linear) and made.training
    with torch.no_grad():
        made(torch.ones(3, 16))
    assert seen == [3]


def test_it_prints_its_density() -> None:
    layer = nn.Linear(16, 16)
    blocky(layer, 8, period=1)
    with torch.no_grad():
        layer.weight[:8] = 0
    assert repr(sparse_layer(layer, "bsr", 8)) == (
        "SparseLinear(in_features=16, out_features=16, bias=True, kernel=bsr in blocks of 8 x 8, zeros=50.0%)"
    )


def test_a_transposed_layer_prints_its_density() -> None:
    made = sparse_layer(thinned(conv1d(16, 8), 0.5), "csr")
    assert repr(made) == "SparseConv1D(nf=8, nx=16, kernel=csr, zeros=50.0%)"


def test_state_dict_is_of_plain_tensors_that_safetensors_holds(tmp_path: Path) -> None:
    made = sparse_layer(thinned(nn.Linear(16, 8).eval(), 0.8), "csr")
    state = made.state_dict()
    assert {*state} == {"weight_values", "weight_columns", "weight_pointers", "bias"}
    save_file(state, tmp_path / "layer.safetensors")
    other = sparse_layer(thinned(nn.Linear(16, 8).eval(), 0.8), "csr")
    x = torch.randn(4, 16)
    with torch.no_grad():
        assert not torch.equal(other(x), made(x))
        other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
        assert torch.equal(other(x), made(x))


@pytest.mark.parametrize("kind", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("make", MAKE)
def test_copies_compute_the_same_and_share_nothing(kind: str, make: str) -> None:
    layer = MAKE[make]()
    made = sparse_layer(thinned(layer.eval(), 0.8), "csr")
    x = torch.randn(4, 16, *([3, 3] if isinstance(layer, nn.Conv2d) else []))
    with torch.no_grad():
        wanted = made(x)
    match kind:
        case "deepcopy":
            other = copy.deepcopy(made)
        case "pickle":
            text = pickle.dumps(made)
            assert b"speedup.sparse" not in text
            other = pickle.loads(text)
        case _:
            stream = io.BytesIO()
            torch.save(made, stream)
            stream.seek(0)
            other = torch.load(stream, weights_only=False)
    with torch.no_grad():
        assert torch.equal(other(x), wanted)
        made.weight_values.zero_()
        assert torch.equal(other(x), wanted)
        assert not torch.equal(made(x), wanted)


def test_other_types_are_taken_and_where_the_kernel_does_not_run_a_warning_says_so() -> None:
    layer = thinned(nn.Linear(16, 8).eval(), 0.8)
    made = sparse_layer(layer, "csr")
    x = torch.randn(4, 16)
    with torch.no_grad():
        made(x)
        torch.testing.assert_close(made.double()(x.double()), copy.deepcopy(layer).double()(x.double()))
        made.to(torch.bfloat16)
        with pytest.warns(UserWarning, match="does not run in torch.bfloat16 on cpu"):
            found = made(x.bfloat16())
        assert torch.equal(found, layer.bfloat16()(x.bfloat16()))


def test_under_autocast_the_types_are_those_of_the_layer() -> None:
    layer = thinned(nn.Linear(16, 8).eval(), 0.8)
    made = sparse_layer(layer, "csr")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert made(torch.randn(4, 16)).dtype == torch.bfloat16


def test_training_is_refused_and_inference_with_gradients_recorded_is_not() -> None:
    made = sparse_layer(thinned(nn.Linear(16, 8), 0.8), "csr")
    with pytest.raises(SparseTrainingError, match=r"call its dense\(\)"):
        made(torch.randn(2, 16))
    made.eval()
    found = made(torch.randn(2, 16, requires_grad=True))
    with pytest.raises(SparseTrainingError, match="SparseLinear has no gradients"):
        found.sum().backward()


def test_trainable_pieces_of_a_weight_have_no_gradients_either() -> None:
    made = sparse_layer(thinned(nn.Linear(16, 8, bias=False).eval(), 0.8), "csr").requires_grad_()
    with pytest.raises(SparseTrainingError):
        made(torch.randn(2, 16)).sum().backward()


@pytest.mark.parametrize("is_assigned", [False, True])
def test_a_weight_that_is_loaded_brings_its_order(is_assigned: bool) -> None:
    made, layer = sparse_layer(blocky(nn.Linear(32, 48).eval(), 8), "bsr", 8, True), nn.Linear(32, 48).eval()
    other = sparse_layer(blocky(layer, 8), "bsr", 8, True)
    x = torch.randn(3, 32)
    with torch.no_grad():
        made(x)
        made.load_state_dict(other.state_dict(), assign=is_assigned)
        torch.testing.assert_close(made(x), layer(x))


def test_an_order_that_is_written_to_alone_is_the_new_one() -> None:
    made, x = sparse_layer(blocky(nn.Linear(32, 48).eval(), 8), "bsr", 8, True), torch.randn(3, 32)
    with torch.no_grad():
        made(x)
        assert made.weight_row_order is not None
        made.weight_row_order.copy_(made.weight_row_order.roll(1))
        torch.testing.assert_close(made(x), made.dense()(x))


@pytest.mark.parametrize("kernel", ["csr", "bags"])
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(16, 8), torch.randn(4, 32)),
        (nn.Linear(16, 8), torch.tensor(1.0)),
        (nn.Linear(16, 8), torch.randn(4, 16).double()),
        (nn.Conv2d(16, 8, 1), torch.randn(2, 32, 3, 3)),
        (nn.Conv2d(16, 8, 1), torch.randn(2, 2, 16, 3, 3)),
    ],
    ids=["features", "scalar", "type", "channels", "dimensions"],
)
def test_what_the_layer_refuses_is_refused_in_the_same_words(
    layer: nn.Module, x: Tensor, kernel: str
) -> None:
    made = sparse_layer(thinned(layer.eval(), 0.8), kernel)
    with torch.no_grad():
        with pytest.raises(RuntimeError) as wanted:
            layer(x)
        with pytest.raises(RuntimeError) as found:
            made(x)
    assert str(found.value) == str(wanted.value)


@pytest.mark.parametrize("kernel", ["csr", "bags"])
def test_transforms_compute_with_dense_weights(kernel: str) -> None:
    layer = thinned(nn.Linear(16, 8).eval(), 0.8)
    made, x = sparse_layer(layer, kernel), torch.randn(5, 4, 16)
    with torch.no_grad(), pytest.warns(UserWarning, match="transforms the forward"):
        torch.testing.assert_close(torch.func.vmap(made)(x), layer(x))


def test_a_damaged_index_is_found_before_it_is_read() -> None:
    made = sparse_layer(thinned(nn.Linear(16, 8).eval(), 0.8), "csr")
    made.weight_columns[0] = 99
    with pytest.raises(RuntimeError, match="col_indices"), torch.no_grad():
        made(torch.randn(2, 16))


def test_which_layers_can_have_a_sparse_weight() -> None:
    class Own(nn.Linear):
        pass

    assert sparse_class_of(nn.Linear(2, 2)) is SparseLinear
    assert sparse_class_of(nn.Conv2d(2, 2, 1, stride=2)) is SparseConv2d
    assert sparse_class_of(conv1d(2, 2)) is SparseConv1D
    others = [
        Own(2, 2),
        nn.Conv2d(2, 2, 3),
        nn.Conv2d(2, 2, 1, groups=2),
        nn.Conv2d(2, 2, 1, padding=1),
        nn.Bilinear(2, 2, 2),
    ]
    assert [sparse_class_of(layer) for layer in others] == [None] * len(others)


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.filterwarnings("ignore")
def test_export_computes_with_dense_weights(make: str) -> None:
    layer = MAKE[make]()
    made: SparseModule = sparse_layer(thinned(layer.eval(), 0.8), "csr")
    x = torch.randn(4, 16, *([3, 3] if isinstance(layer, nn.Conv2d) else []))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        exported = torch.export.export(made, (x,), strict=False)
    assert len([one for one in caught if "sparse layers compute with dense weights" in str(one.message)]) == 1
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), layer(x))


@pytest.mark.parametrize("kernel", ["csr", "bags"])
@pytest.mark.filterwarnings("ignore")
def test_strict_export_computes_with_dense_weights(kernel: str) -> None:
    layer, x = thinned(nn.Linear(16, 8).eval(), 0.8), torch.randn(4, 16)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(sparse_layer(layer, kernel), (x,), strict=True)
        torch.testing.assert_close(exported.module()(x), layer(x))


@pytest.mark.filterwarnings("ignore")
def test_other_tracers_compute_with_it_too() -> None:
    layer = thinned(nn.Linear(16, 8).eval(), 0.8)
    model, x = nn.Sequential(sparse_layer(layer, "csr"), nn.ReLU()).eval(), torch.randn(4, 16)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.fx.symbolic_trace(model)
        assert isinstance(graph.get_submodule("0"), SparseLinear)
        for one in (graph, torch.jit.trace(model, x, check_trace=False)):
            torch.testing.assert_close(one(x), layer(x).relu())


@pytest.mark.parametrize("how", KERNELS)
def test_compiled_graphs_have_the_product_as_one_op(
    layer_and_input: tuple[nn.Module, Tensor], how: str
) -> None:
    layer, x = layer_and_input
    made = sparse_layer(blocky(layer, 8), *KERNELS[how])
    torch.compiler.reset()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    found = compiled(x.clone().requires_grad_())
    torch.testing.assert_close(found, layer(x), rtol=1e-12, atol=1e-12)
    if x.numel():
        with pytest.raises(SparseTrainingError):
            found.sum().backward()
