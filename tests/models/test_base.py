"""What the base of the discriminators gives to one that has only its layers."""

import pytest
import torch
from torch import Tensor, nn

from vitgan.models import Discriminator
from vitgan.nn import Convolution, Linear
from vitgan.nn.norm import Normalisation


class Small(Discriminator):
    """A convolutional discriminator as somebody would write it in a file of their own."""

    def __init__(self, kind: Normalisation, *, resolution: int, channels: int, classes: int = 0) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=classes)
        self.layers = nn.Sequential(Convolution(channels, 8), nn.ReLU(), Convolution(8, 8))
        self.head = Linear(8, 1)
        self.label = self.label_projection(8)
        self.normalise(kind)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        with self.normalised():
            y = self.layers(images).sum((2, 3))  # (B, D)
            return self.labelled(self.head(y), y, labels, self.label)


@pytest.mark.parametrize("kind", ["improved", "plain", "none"])
def test_layers_and_forward_make_a_discriminator(kind: Normalisation):
    """Label and spectral norm come from the base: logits by weights divided by sigma, plus the label's."""
    torch.manual_seed(0)
    model = Small(kind, resolution=8, channels=3, classes=4)
    assert (model.resolution, model.channels, model.classes) == (8, 3, 4)
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([3, 1])
    logits = model(images, labels)
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    assert model.label in layers
    with torch.no_grad():
        if kind == "plain":
            for layer in layers:
                weight = layer.weight * layer.scale
                layer.weight.div_(torch.linalg.matrix_norm(weight, 2))
        y = model.layers(images).sum((2, 3))
        assert model.label is not None
        vectors = model.label.effective_weight()[:, labels].mT  # (B, D)
        torch.testing.assert_close(logits, model.head(y) + (vectors * y).sum(1, keepdim=True))


def test_a_step_of_the_power_iteration_is_taken_where_there_is_a_spectral_norm():
    """`advance` moves sigma after the weights have changed, and does nothing without a norm."""
    model = Small("plain", resolution=8, channels=3)
    assert model.label is None
    assert model.spectral is not None
    before = model.spectral.get_buffer("sigma_0").clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    model.advance()
    torch.testing.assert_close(model.spectral.get_buffer("sigma_0"), 2 * before)
    Small("none", resolution=8, channels=3).advance()
