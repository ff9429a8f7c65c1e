from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from speedup.analyses.chains import Chain, find_chains
from speedup.ir.inputs import example_from
from speedup.rules import STANDARD
from speedup.tracing.islands import survey

SHAPES = [(2, 12, 5, 6), (1, 12, 1, 1), (1, 12, 5, 5), (2, 12, 1, 1), (2, 12, 1, 3)]


class Arranged(nn.Module):
    def __init__(self, arrange: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.arrange = arrange

    def forward(self, x: Tensor) -> Tensor:
        return self.arrange(x * 2) * 3


def chains_of(arrange: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Chain, ...]:
    found = survey(Arranged(arrange), [example_from(torch.randn(*shape), None)])
    return find_chains(found.trace.graph, STANDARD)


def shuffle(x: Tensor) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, 3, channels // 3, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, -1, height, width)


def in_one_line(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 3, 4, *x.shape[2:]).permute(0, 2, 1, 3, 4).reshape(x.shape)


def by_names(x: Tensor) -> Tensor:
    return x.unflatten(1, (3, 4)).swapaxes(1, 2).flatten(1, 2)


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).unflatten(-1, (3, 4)).transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("arrange", [shuffle, in_one_line, by_names, channels_last])
def test_what_only_changes_an_order_is_a_chain(
    arrange: Callable[[Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    (chain,) = chains_of(arrange, shape)
    assert chain.dim == 1
    assert chain.order.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    x = torch.randn(*shape)
    assert torch.equal(arrange(x), x.index_select(1, chain.order))


OTHERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x.view(x.shape[0], -1, *x.shape[2:]).contiguous(),
    "back and forth": lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).view(x.shape),
    "space and channels": lambda x: x.view(x.shape[0], 3, 4, -1).transpose(1, 3).reshape(x.shape),
    "space turned": lambda x: x.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2).transpose(2, 3),
    "space turned on the way": lambda x: x.unflatten(1, (3, 4)).permute(0, 2, 1, 4, 3).flatten(1, 2),
    "something in between": lambda x: (x.unflatten(1, (3, 4)) + 1).transpose(1, 2).flatten(1, 2),
    "one of them only": lambda x: x.unflatten(1, (3, 4))[:, :2].transpose(1, 2).flatten(1, 2),
}


def twice_read(x: Tensor) -> Tensor:
    parts = x.unflatten(1, (3, 4))
    return parts.transpose(1, 2).flatten(1, 2) + parts.flatten(1, 2)


@pytest.mark.parametrize("name", [n for n in OTHERS if n != "space turned"])
def test_what_does_more_or_nothing_is_none(name: str) -> None:
    assert all(chains_of(OTHERS[name], shape) == () for shape in ((2, 12, 5, 6), (2, 12, 5, 5)))


def test_what_others_read_too_is_none() -> None:
    assert chains_of(twice_read, (2, 12, 5, 6)) == ()


def test_a_chain_ends_where_the_order_is_made() -> None:
    (chain,) = chains_of(OTHERS["space turned"], (2, 12, 5, 6))
    assert len(chain.ops) == 3


def test_two_in_a_row_are_two() -> None:
    first, second = chains_of(lambda x: shuffle(shuffle(x)), (2, 12, 5, 6))
    assert first.result is second.source
