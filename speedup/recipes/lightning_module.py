"""Lightning: the small model is the same LightningModule, and is trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from speedup import apply_masks, make_masks, materialize, plan_speedup
from speedup.pruners import Norm
from speedup.recipes.made import Made


def train_with_lightning() -> Made:
    """A LightningModule -> a small one, trained for a few steps."""
    from lightning import LightningModule, Trainer

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))

        def forward(self, x: Tensor) -> Any:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> Any:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-3)  # made by the trainer, of the small parameters

    model, x = Classifier().eval(), torch.randn(1, 1, 28, 28)
    masks = make_masks(model, x, Norm(), 0.5)
    plan = plan_speedup(model, x, masks)
    small = materialize(plan)
    with torch.no_grad():
        made = Made(plan, apply_masks(model, masks)(x), small(x))

    images = torch.utils.data.TensorDataset(torch.randn(64, 1, 28, 28), torch.randint(10, (64,)))
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(small.train(), torch.utils.data.DataLoader(images, batch_size=16))
    return made
