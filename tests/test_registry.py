"""Parts of one's own: registered by name, used from the command line, named in what a run writes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vitgan
from vitgan import registry
from vitgan.config import check, from_dict, to_dict
from vitgan.data import ArraySource, open_source
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.gan import Recipe
from vitgan.errors import UserError

OWN = '''
from dataclasses import dataclass
import vitgan
from vitgan.config import option

@vitgan.register
@dataclass(frozen=True, kw_only=True)
class OwnSquares:
    """Least squares loss (arXiv 1611.04076)."""

    margin: float = option(1.0, above=0)
    """The target of real logits."""

    def discriminator(self, real, fake):
        return (real - self.margin).square().mean() + fake.square().mean()

    def generator(self, real, fake):
        return (fake - self.margin).square().mean()
'''


pytestmark = pytest.mark.usefixtures("own_parts_forgotten")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with a loss of one's own."""
    path = tmp_path / "own_losses.py"
    path.write_text(OWN)
    return path


Train = Callable[..., int]


def test_a_loss_of_ones_own_trains_and_is_named_with_its_module(
    own: Path, tiny_train: Train, tmp_path: Path
) -> None:
    words = ("--use", own, "--loss", "own-squares", "--loss.margin", "0.5", "--images", "8")
    assert tiny_train(tmp_path / "run", *words) == 0
    _, description = load_checkpoint(checkpoints(tmp_path / "run")[-1])
    assert description["recipe"]["loss"] == {"type": "OwnSquares", "module": own.name, "margin": 0.5}
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["loss"]["margin"] == 0.5


def test_a_run_samples_without_the_loss_that_trained_it(own: Path, tiny_train: Train, tmp_path: Path) -> None:
    assert tiny_train(tmp_path / "run", "--use", own, "--loss", "own-squares", "--images", "8") == 0
    registry._parts[:] = [part for part in registry._parts if part.module is None]
    assert vitgan.load(tmp_path / "run").sample(2).shape == (2, 1, 8, 8)


def test_a_missing_part_is_kept_as_it_was_written_and_named_where_it_is_needed(own: Path) -> None:
    registry.use(str(own))
    loss = registry.get("loss", "own-squares")(margin=0.25)
    recipe = vitgan.recipes.get("digits")
    written = to_dict(recipe) | {"loss": to_dict(loss)}
    registry._parts[:] = [part for part in registry._parts if part.module is None]
    read = from_dict(written, Recipe)
    assert to_dict(read) == written
    with pytest.raises(UserError, match=r"The loss OwnSquares is a part of own_losses.py: give --use own"):
        read.require_parts()


def test_a_file_that_fails_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken_parts.py"
    path.write_text("x = 1\ny = x / 0\n")
    with pytest.raises(UserError, match=r"ZeroDivisionError.*line 2 of broken_parts"):
        registry.use(str(path))


def test_a_file_without_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no_parts.py"
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="registers no part"):
        registry.use(str(path))


def test_a_class_that_is_no_frozen_dataclass_is_refused() -> None:
    with pytest.raises(UserError, match="frozen, keyword-only dataclass"):

        @vitgan.register
        class Plain:
            def discriminator(self, real: Tensor, fake: Tensor) -> Tensor: ...
            def generator(self, real: Tensor, fake: Tensor) -> Tensor: ...


def test_a_name_of_the_packages_own_is_refused() -> None:
    registry.parts("loss")
    with pytest.raises(UserError, match="There is a loss hinge already"):

        @vitgan.register(name="Hinge")
        @dataclass(frozen=True, kw_only=True)
        class Mine:
            def discriminator(self, real: Tensor, fake: Tensor) -> Tensor: ...
            def generator(self, real: Tensor, fake: Tensor) -> Tensor: ...


def test_a_name_that_the_package_claims_later_is_the_packages() -> None:
    def loss(name: str, module: str) -> type:
        players = {"discriminator": lambda *_: None, "generator": lambda *_: None, "__module__": module}
        return dataclass(frozen=True, kw_only=True)(type(name, (), players))

    vitgan.register(name="shared")(loss("Mine", "mine"))
    with pytest.raises(UserError, match="There is a loss shared already, of vitgan: name Mine otherwise"):
        vitgan.register(name="shared")(loss("Shared", "vitgan.adversarial.later"))


def test_a_class_that_only_bears_the_name_of_a_part_is_refused() -> None:
    from vitgan.adversarial import Logistic as Original

    class Logistic(Original):
        """Not the package's."""

    recipe = vitgan.recipes.get("digits")
    with pytest.raises(UserError, match="whose class Logistic is no registered loss"):
        check(_with(recipe, Logistic()), "recipe")


def _with(recipe: Any, loss: Any) -> Any:
    import dataclasses

    return dataclasses.replace(recipe, loss=loss)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("LeastSquares", "least-squares"), ("R1", "r1"), ("BCR", "bcr"), ("MyNetOptions", "my-net")],
)
def test_a_class_is_named_in_lower_case_with_hyphens(name: str, expected: str) -> None:
    assert registry.name_of(type(name, (), {})) == expected


@pytest.mark.parametrize(
    "kind", ["generator", "discriminator", "loss", "augment", "term", "source", "logger"]
)
def test_the_packages_parts_say_what_they_are(kind: registry.Kind) -> None:
    found = registry.parts(kind)
    assert found
    assert all(part.summary for part in found)


def test_relativistic_pairs_judge_each_fake_against_a_real_image() -> None:
    loss = registry.get("loss", "relativistic")()
    real, fake = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [3.0]])
    expected = torch.log1p(torch.exp(fake - real)).mean()
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(real, fake), torch.log1p(torch.exp(real - fake)).mean())


def test_a_source_of_ones_own_takes_options_behind_its_name() -> None:
    @vitgan.register
    @dataclass(frozen=True, kw_only=True)
    class Ramps:
        count: int = 4
        size: int = 8

        def open(self) -> ArraySource:
            ramp = np.arange(self.count * self.size**2).reshape(self.count, self.size, self.size)
            return ArraySource("ramps", (ramp % 256).astype(np.uint8))

    assert len(open_source("ramps")) == 4
    source = open_source("ramps:count=3,size=16")
    assert (len(source), source.picture(0).size) == (3, (16, 16))
    with pytest.raises(UserError, match="The source ramps has no option 'depth'; it has count, size"):
        open_source("ramps:depth=3")
    with pytest.raises(UserError, match=r"data\.count"):
        open_source("ramps:count=many")
