"""Where features come from: a file of Inception weights, and everything that is not one."""

import hashlib
import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_fidelity
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3 as inception

from vitgan.errors import UserError
from vitgan.metrics import extractors as features
from vitgan.metrics.extractors import Opening, open_fidelity

OPENING = Opening(metrics=("fid", "is"), resolution=8, device=torch.device("cpu"), quiet=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the shapes of torch-fidelity's Inception, which reads none while it is built."""
    with pytest.MonkeyPatch.context() as patched, torch.random.fork_rng():
        torch.manual_seed(0)
        patched.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        module = torch_fidelity.FeatureExtractorInceptionV3(features.INCEPTION, ["2048"])
    path = tmp_path_factory.mktemp("weights") / "stand-in.pth"
    torch.save(OrderedDict(module.state_dict()), path)
    return path


def test_inception_of_a_file_gives_what_torch_fidelity_gives(weights: Path) -> None:
    extractor = open_fidelity(str(weights), OPENING)
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = extractor.features(grey)
    direct = torch_fidelity.FeatureExtractorInceptionV3(
        features.INCEPTION, ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    expected = direct(grey.repeat(1, 3, 1, 1))
    assert torch.equal(found["2048"], expected[0])
    assert torch.equal(found["logits_unbiased"], expected[1])
    assert extractor.name == "inception"
    assert extractor.sha == hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    assert extractor.facts == {"fid_layer": "2048", "is_layer": "logits_unbiased"}


class Trap:
    """An object that leaves a folder behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        saved({"fc.weight": torch.zeros(2)}),
        saved([torch.zeros(2)]),
        saved({"fc.weight": "text"}),
    ],
    ids=["empty", "web page", "another network", "a list", "no tensor"],
)
def test_a_file_that_is_no_weights_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a file of torch-fidelity's Inception weights") as caught:
        open_fidelity(str(path), OPENING)
    assert "\n" not in str(caught.value)
    assert features.WEIGHTS_URL in str(caught.value)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    path.write_bytes(saved({"fc.weight": Trap(trace)}))
    with pytest.raises(UserError, match="is not a file"):
        open_fidelity(str(path), OPENING)
    assert not trace.exists()


def test_a_missing_layer_or_shape_is_refused(weights: Path, tmp_path: Path) -> None:
    state: dict[str, Tensor] = torch.load(weights, weights_only=True)
    state["fc.weight"] = state["fc.weight"][:10]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(UserError, match="is not a file"):
        open_fidelity(str(tmp_path / "cut.pth"), OPENING)


def test_without_a_network_one_sentence_says_which_file_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError) as caught:
        open_fidelity("inception", OPENING)
    said = str(caught.value)
    name = "weights-inception-2015-12-05-6726825d.pth"
    for part in (features.WEIGHTS_URL, str(tmp_path / "checkpoints" / name), "--features FILE"):
        assert part in said
    assert "\n" not in said


def test_a_damaged_file_in_the_cache_of_torch_hub_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    features.weights_path().parent.mkdir()
    features.weights_path().write_bytes(b"half")
    with pytest.raises(UserError, match="is damaged: delete it and fetch"):
        open_fidelity("inception", OPENING)


def test_unknown_features_name_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no features 'incepton': choose inception, classifier, .*vgg16"):
        open_fidelity("incepton", OPENING)
