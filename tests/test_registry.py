"""Parts of one's own: registered by name, used from the command line, named in what a run writes."""

import contextlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vitgan
from vitgan import registry
from vitgan.adversarial import Logistic as Plain
from vitgan.cli import main
from vitgan.config import check, from_dict, to_dict
from vitgan.data import ArraySource, open_source
from vitgan.data.sources import SourceModules, sending
from vitgan.engine.checkpoint import checkpoints, load_checkpoint
from vitgan.engine.gan import Recipe
from vitgan.engine.recipe import TrainingOptions as PlainTraining
from vitgan.engine.train import train
from vitgan.errors import UserError

OWN = '''
from dataclasses import dataclass, fields, is_dataclass, replace
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

METRIC = '''
@vitgan.register
@dataclass(frozen=True, kw_only=True)
class Shift:
    """Distance of the mean features."""

    def measure(self, real, fake):
        return {"shift": (real.mean(0) - fake.mean(0)).norm()}
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


@pytest.fixture
def announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a loss, a metric and an entry point, as pip leaves one in site-packages."""
    (tmp_path / "margins.py").write_text(OWN + METRIC)
    facts = tmp_path / "margins-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: margins\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\nmargins = margins\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._loaded.discard(registry.ENTRY_POINTS)
    yield tmp_path
    sys.modules.pop("margins", None)
    registry._loaded.discard(registry.ENTRY_POINTS)


@pytest.mark.usefixtures("announced")
def test_the_parts_of_an_installed_package_are_found_by_name() -> None:
    assert "own-squares" not in registry.names("loss")
    found = registry.get("loss", "own-squares")
    assert to_dict(found(margin=0.5)) == {"type": "OwnSquares", "module": "margins", "margin": 0.5}
    assert registry.has("metric", "shift")


@pytest.mark.usefixtures("announced")
def test_the_parts_of_an_installed_package_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--parts", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["loss"]["own-squares"] == "Least squares loss (arXiv 1611.04076)."
    assert {"fid", "is", "kid", "prdc", "shift"} <= listed["metric"].keys()


SOURCE_AND_TERM = """
from dataclasses import dataclass
import numpy as np
import vitgan
from vitgan.adversarial import Term
from vitgan.data import ArraySource

@vitgan.register
@dataclass(frozen=True, kw_only=True)
class Stripes:
    count: int = 6

    def open(self):
        return ArraySource("stripes", np.zeros((self.count, 8, 8), dtype=np.uint8))

@vitgan.register
@dataclass(frozen=True, kw_only=True)
class Pull(Term):
    weight: float = 1.0

    def losses(self, seen):
        return {"pull": self.weight * seen.judged_real.logits.mean()}
"""


def test_what_an_installed_package_announces_is_found_by_settings_and_sources(
    announced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (announced / "margins.py").write_text(SOURCE_AND_TERM)
    assert len(open_source("stripes:count=3")) == 3
    registry._loaded.discard(registry.ENTRY_POINTS)
    sys.modules.pop("margins")
    registry._parts[:] = [part for part in registry._parts if part.module is None]
    assert main(["train", "digits", "--terms.pull.weight", "0.5", "--settings", "--json"]) == 0
    terms = json.loads(capsys.readouterr().out)["terms"]
    assert {"type": "Pull", "module": "margins", "weight": 0.5} in terms


def test_an_installed_package_that_fails_is_named(announced: Path) -> None:
    (announced / "margins.py").write_text("raise RuntimeError('out of date')\n")
    with pytest.raises(UserError, match=r"announces as margins .*RuntimeError: out of date"):
        registry.get("loss", "own-squares")


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


@pytest.mark.parametrize("kind", registry.KINDS)
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


def test_a_source_of_ones_own_is_held_to_what_a_source_is() -> None:
    @vitgan.register
    @dataclass(frozen=True, kw_only=True)
    class Shelf:
        count: int

        def open(self) -> Any:
            return ["a picture"] * self.count

    with pytest.raises(UserError, match="The source shelf needs count: write shelf:count=VALUE"):
        open_source("shelf")
    with pytest.raises(UserError, match=r"open\(\) of the source shelf gave a list without labels"):
        open_source("shelf:count=1")


SOURCE = '''
from dataclasses import dataclass, fields, is_dataclass, replace
import numpy as np
import vitgan

class Blanks(vitgan.data.ArraySource):
    """Blank images."""

@vitgan.register
@dataclass(frozen=True, kw_only=True)
class Blank:
    """Blank images."""

    def open(self):
        return Blanks("blank", np.zeros((3, 8, 8), np.uint8))
'''


def test_a_source_of_ones_own_reaches_a_process_that_has_imported_nothing(tmp_path: Path) -> None:
    path = tmp_path / "own_source.py"
    path.write_text(SOURCE)
    registry.use(str(path))
    sent = pickle.dumps({"modules": SourceModules(), "source": open_source("blank")})
    code = "import pickle, sys; print(len(pickle.load(sys.stdin.buffer)['source']))"
    came = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert came.stdout.split() == [b"3"]


def test_a_source_that_cannot_be_sent_to_a_process_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"cannot be sent to other processes .* or give --workers 0"):  # noqa: SIM117
        with sending("--workers 0"):
            pickle.dumps(lambda: None)


@dataclass(frozen=True, kw_only=True)
class Logistic(Plain):
    """The package's loss twice over, under its name."""

    def generator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 2 * super().generator(real, fake)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(PlainTraining):
    """The package's options, under their name."""


def test_a_class_that_is_called_as_one_of_the_package_is_not_recorded_as_it(tmp_path: Path) -> None:
    recipe = replace(vitgan.recipes.get("digits"), loss=Logistic())
    assert to_dict(recipe)["loss"]["module"] == __name__
    for start in (vitgan.train, lambda r, out: train(r, out, device=torch.device("cpu"))):
        with pytest.raises(UserError, match=r"Logistic is no registered loss: put @vitgan.register over it"):
            start(recipe, out=tmp_path / "run")
        with pytest.raises(UserError, match=r"recipe.training is of the class .*TrainingOptions, but"):
            start(replace(recipe, loss=Plain(), training=TrainingOptions()), out=tmp_path / "run")
    vitgan.register(name="twice")(Logistic)
    written = to_dict(recipe)
    assert type(from_dict(written, Recipe).loss) is Logistic
    assert type(from_dict(to_dict(replace(recipe, loss=Plain())), Recipe).loss) is Plain
    assert recipe.conflicts(replace(recipe, loss=Plain()))


def test_what_is_no_recipe_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The recipe is 3, but must be the name of one"):
        vitgan.train(3, out=tmp_path)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


WRONG: list[Any] = ["128", [1], {}, b"x", float("nan"), None, -1, (), 1j]


@pytest.mark.parametrize("name", ["digits", "cifar10-contrad", "vit-classifier-small", "siren-small"])
def test_values_of_any_other_kind_are_refused_in_a_sentence(name: str) -> None:
    def tried(options: Any, whole: Callable[[Any], Any]) -> None:
        for field in fields(options):
            value = getattr(options, field.name)
            put = lambda new, name=field.name: whole(replace(options, **{name: new}))  # noqa: E731
            if is_dataclass(value):
                tried(value, put)
            for item in value if isinstance(value, tuple) else ():
                if is_dataclass(item):
                    tried(item, lambda new, put=put: put((new,)))
            for wrong in WRONG:
                with contextlib.suppress(UserError):
                    check(put(wrong), "recipe")

    tried(vitgan.recipes.get(name), lambda recipe: recipe)
    with pytest.raises(UserError, match=r"training.batch is '128', but must be int"):
        replace(vitgan.recipes.get(name).training, batch="128")
