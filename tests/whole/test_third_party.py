"""Models of other libraries, where these are installed: exact and untouched with random rows masked."""

from __future__ import annotations

import pytest
import typer

from benchmarks import zoo
from tests.support import third_party, vision
from tests.support.third_party import LIBRARIES, Library, LibraryMissingError, available, require
from tests.support.zoo import check_third_party

_TOLERANCE = 1e-9
_MISSING = Library("no_such_module_anywhere", ("no-such-thing", "einops"), {})

needs_vision = pytest.mark.skipif(not vision.available(), reason="torchvision is not installed")


@pytest.fixture
def without_monai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(third_party, "LIBRARIES", {**LIBRARIES, "monai": _MISSING})


@needs_vision
@pytest.mark.usefixtures("without_monai")
def test_library_that_is_missing_is_told_with_the_command_that_installs_it() -> None:
    with pytest.raises(LibraryMissingError, match="pip install --no-deps no-such-thing einops"):
        require("monai")
    assert not available("monai")


@needs_vision
@pytest.mark.usefixtures("without_monai")
def test_zoo_says_what_to_install() -> None:
    with pytest.raises(typer.BadParameter, match=r"monai cannot be imported .* pip install --no-deps"):
        zoo.main(library=zoo.Library.MONAI)


def test_zoo_offers_every_library() -> None:
    assert set(LIBRARIES) < {library.value for library in zoo.Library}


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("library", "name"), [(one, name) for one in LIBRARIES for name in LIBRARIES[one].cases]
)
def test_model_with_random_rows_masked_stays_the_same(library: str, name: str) -> None:
    if not available(library):
        pytest.skip(f"{library} is not installed")
    check_third_party(library, name, also_verified=True).require_exact(_TOLERANCE)
