"""The Vision Transformer of the deck against timm's, an independent one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import twins
from vitgan.models import VisionTransformer, VisionTransformerOptions
from vitgan.models.vit import load_timm

pytestmark = pytest.mark.parity

OPTIONS = VisionTransformerOptions(
    patch=16,
    overlap=0,
    depth=12,
    width=192,
    heads=3,
    perceptron_width=768,
    attention="dot-product",
    spectral_norm="none",
    head="linear",
)


@pytest.fixture(scope="module")
def timm_model():
    """timm's ViT-Tiny at 64 x 64 with weights of its own and every bias off zero."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, num_classes=10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def ours(
    options: VisionTransformerOptions = OPTIONS, *, resolution: int = 64, outputs: int = 10
) -> VisionTransformer:
    return VisionTransformer(options, resolution=resolution, channels=3, outputs=outputs)


@torch.no_grad()
@pytest.mark.parametrize("equalised", [True, False])
def test_timm_weights_give_timm_logits(timm_model: torch.nn.Module, equalised: bool):
    model = ours(replace(OPTIONS, equalised=equalised))
    load_timm(model, timm_model.state_dict())
    images = twins.random(3, 3, 64, 64).float()
    expected = timm_model(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (replace(OPTIONS, width=96), {}),
        (replace(OPTIONS, perceptron_width=96), {}),
        (replace(OPTIONS, depth=11), {}),
        (replace(OPTIONS, depth=13), {}),
        (OPTIONS, {"outputs": 9}),
        (OPTIONS, {"resolution": 32}),
    ],
    ids=["width", "perceptron", "too few blocks", "too many blocks", "outputs", "resolution"],
)
def test_weights_of_another_shape_are_refused(
    timm_model: torch.nn.Module, options: VisionTransformerOptions, sizes: dict[str, int]
):
    with pytest.raises(ValueError, match=r"shape|blocks"):
        load_timm(ours(options, **sizes), timm_model.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        replace(OPTIONS, attention="l2"),
        replace(OPTIONS, overlap=None),
        replace(OPTIONS, head="tanh"),
        replace(OPTIONS, spectral_norm="improved"),
    ],
    ids=["attention", "overlap", "head", "spectral norm"],
)
def test_a_network_that_cannot_agree_with_timm_is_refused(options: VisionTransformerOptions):
    state: dict[str, Tensor] = {}
    with pytest.raises(ValueError, match="timm ViT needs"):
        load_timm(ours(options), state)
