"""Small models of transformers: loaded and saved where widths differ between layers, which no config tells.

Needs the package transformers.
"""

from speedup.hf.loading import from_pretrained
from speedup.hf.saving import save_pretrained

__all__ = ["from_pretrained", "save_pretrained"]
