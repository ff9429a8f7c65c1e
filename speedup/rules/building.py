"""What a rule of one's own is made from: ready rules, constructors, and the parts of a record.

An operator that is like a known one can take its rule as it stands: `STANDARD[torch.ops.aten.gelu]`.
"""

from speedup.rules.kept import keeping
from speedup.rules.pointwise import ELEMENTWISE
from speedup.rules.ready import channelwise, rearranging
from speedup.rules.rule import Rule, equal, matched, pinned
from speedup.rules.site import Site

__all__ = [
    "ELEMENTWISE",
    "Rule",
    "Site",
    "channelwise",
    "equal",
    "keeping",
    "matched",
    "pinned",
    "rearranging",
]
