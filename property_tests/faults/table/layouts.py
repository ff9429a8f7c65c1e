"""Elements that are moved otherwise than the library thinks, and numbers of calls that move them."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import (
    CONSTRAINTS,
    COUPLING,
    LAYOUT_BLOCKS,
    LAYOUTS,
    NETWORKS,
    STATED,
    WIDTHS,
    sliced,
)

FAULTS = (
    Fault(
        "layout: the parts of a concatenation all begin at 0",
        "rules.moves",
        "        start += source[axis]\n        moves.append(IndexMap(number, 0",
        "        start += 0\n        moves.append(IndexMap(number, 0",
        (LAYOUTS,),
    ),
    Fault(
        "layout: a channel shuffle changes nothing",
        "rules.moves",
        "index = torch.arange(source[1]).reshape(groups, -1).t().reshape(-1)",
        "index = torch.arange(source[1])",
        (LAYOUTS,),
    ),
    Fault(
        "layout: roll goes the other way",
        "rules.moves",
        "(torch.arange(source[axis]) - shift) % source[axis]",
        "(torch.arange(source[axis]) + shift) % source[axis]",
        (LAYOUTS,),
    ),
    Fault(
        "layout: a pad forgets what it adds in front",
        "rules.moves",
        "    position = result - before\n",
        "    position = result\n",
        (LAYOUTS,),
    ),
    Fault(
        "layout: reflection repeats the border",
        "rules.moves",
        "2 * (extent - 1) - inside",
        "2 * extent - 1 - inside",
        (LAYOUTS,),
    ),
    Fault(
        "layout: windows of an unfold advance by one",
        "rules.moves",
        'torch.arange(count)[:, None] * arguments["step"]',
        "torch.arange(count)[:, None]",
        (LAYOUTS,),
    ),
    Fault(
        "layout: a reshape joins dimensions that it need not",
        "engine.layout",
        "while have != want:\n            if have < want:",
        "while have != want or s < len(wide_source):\n            if have <= want and s < len(wide_source):",
        (LAYOUT_BLOCKS, LAYOUTS),
    ),
    Fault(
        "layout: the results of a view need nothing of what it reads",
        "engine.constraints",
        "yield from zip(self.sources, project(adjoint, self.source_sizes), strict=True)",
        "yield from ()",
        (CONSTRAINTS, *NETWORKS),
    ),
    Fault(
        "layout: the border that a pad adds may go",
        "engine.constraints",
        "                read = read | ~valid",
        "                read = read | False",
        (CONSTRAINTS, *sliced("constant_pad_nd")),
    ),
    Fault(
        "layout: an index that a slice begins with is one too high",
        "rules.stated",
        "return position if position > _NO_END else int(kept[:position].sum())",
        "return position if position > _NO_END else int(kept[:position].sum()) + 1",
        (STATED, *NETWORKS),
    ),
    Fault(
        "layout: a split is told the size of its first part",
        "rules.stated",
        "max(sizes(r)[axis] for r in op.results)",
        "sizes(op.results[-1])[axis]",
        (STATED,),
    ),
    Fault(
        "layout: chunks that came out uneven would stay whole",
        "rules.layout",
        "yield Counted(tuple((r.index, axis) for r in site.op.results), reason)",
        "yield from ()",
        (f"{COUPLING}::test_chunks_lose_as_many_channels_as_the_one_that_can_spare_least",),
    ),
    Fault(
        "layout: copies of key heads need not be equally many",
        "engine.constraints",
        "        want = max(int(counts.max()), int(copies.sum()), 1)\n",
        "        want = 1\n",
        (WIDTHS,),
    ),
)
