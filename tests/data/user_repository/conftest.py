"""With `--fault`, the library takes the slice beside the one that it planned."""

import importlib

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault", action="store_true", help="plant a slice that is off by one")


@pytest.fixture(scope="session", autouse=True)
def _fault(request: pytest.FixtureRequest):
    if not request.config.getoption("--fault"):
        yield
        return
    library = importlib.import_module("speedup.building.materializing")
    apply_edits = library.apply_edits

    def off_by_one(held, masks, edits):
        return {
            name: tensor.roll(1, 0) if name == "widen.weight" and tensor.shape != held[name].shape else tensor
            for name, tensor in apply_edits(held, masks, edits).items()
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "apply_edits", off_by_one)
        yield
