"""What every generator is to the rest: latents in, images out.

Shapes: N images, B batch, C channels, R resolution, Z latent size.
"""

import abc

import torch
from torch import Tensor, nn

from vitgan.errors import UserError


class Generator(nn.Module, abc.ABC):
    """z (B, Z), labels (B,) or None -> images (B, C, R, R) in [-1, 1], by way of an intermediate latent w.

    A system gives `mapping` (a module) and `synthesise`; `training_images` too where training draws more than
    z, as the noise and the style mixing of StyleGAN2.
    """

    can_recompute = False
    """Whether it knows activation checkpointing."""
    activation_checkpointing = False
    """Keep no activations within the blocks; the backward pass computes them again."""
    mapping: nn.Module
    """z (B, Z), labels (B,) or None -> w (B, ...), whose mean truncation pulls to."""

    def __init__(self, *, resolution: int, channels: int, classes: int, latent_dim: int) -> None:
        super().__init__()
        self.resolution, self.channels, self.classes = resolution, channels, classes
        self.latent_dim = latent_dim

    @abc.abstractmethod
    def synthesise(self, w: Tensor) -> Tensor:
        """w (B, ...) -> images (B, C, R, R): the same for the same w, in eval mode."""

    def modulations(self) -> list[Tensor]:
        """The weights (O, E) of the affine maps by which w modulates the network; none where it does not."""
        return []

    def render(self, w: Tensor, scale: int) -> Tensor:
        """w (B, ...) -> images (B, C, scale R, scale R), where an image is a function of the coordinates.

        Raises UserError where it is not.
        """
        if scale == 1:
            return self.synthesise(w)
        raise UserError(
            "This generator gives pixels and no function of their coordinates: leave --scale out, "
            "or train one whose output is implicit."
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.synthesise(self.mapping(z, labels))

    def training_images(self, z: Tensor, labels: Tensor | None, rng: torch.Generator) -> Tensor:  # noqa: ARG002
        """The images of a training step; whatever is random in them beside z is drawn from `rng`."""
        return self(z, labels)

    def advance(self) -> None:
        """What must happen once a generator update, after it: a power iteration, say."""

    @torch.no_grad()
    def latents(self, count: int, *, seed: int) -> Tensor:
        """`count` latents z ~ N(0, I), (count, Z), a function of the seed alone."""
        return torch.randn(count, self.latent_dim, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def sample(
        self,
        count: int,
        *,
        seed: int = 0,
        truncation: float = 1.0,
        labels: Tensor | None = None,
        batch: int = 256,
        dtype: torch.dtype = torch.float32,
        part: slice = slice(None),
        scale: int = 1,
    ) -> Tensor:
        """`count` images, uint8 (count, C, R, R) on the CPU, made `batch` at a time on the own device.

        `dtype` is that of the activations: bfloat16 is about twice as fast where the hardware computes in it.
        truncation T pulls w toward its mean, w_mean + T (w - w_mean). A class-conditional generator takes
        labels (count,), or draws them from the seed. Of these images only `part` is made. `scale` K renders
        an implicit output at K times the resolution, (count, C, K R, K R), K^2 times as few at a time; others
        raise UserError.
        """
        device = next(self.parameters()).device
        z = self.latents(count, seed=seed)
        if self.classes and labels is None:
            labels = torch.randint(self.classes, (count,), generator=torch.Generator().manual_seed(seed))
        z, labels = z[part], None if labels is None else labels[part]
        side, batch = scale * self.resolution, max(1, batch // scale**2)
        images = torch.empty(len(z), self.channels, side, side, dtype=torch.uint8)
        mean = self.mean_w() if truncation != 1 else None
        for start in range(0, len(z), batch):
            now = slice(start, start + batch)
            own_labels = None if labels is None else labels[now].to(device)
            w = self.mapping(z[now].to(device, dtype), own_labels)
            if mean is not None:
                w = torch.lerp(mean.to(dtype), w, truncation)
            images[now] = to_uint8(self.render(w, scale)).cpu()
        return images

    @torch.no_grad()
    def mean_w(self, count: int = 4096) -> Tensor:
        """Mean of w over `count` latents of seed 0, (1, ...)."""
        z = self.latents(count, seed=0).to(next(self.parameters()).device)
        labels = torch.arange(count, device=z.device) % self.classes if self.classes else None
        return self.mapping(z, labels).mean(0, keepdim=True)


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] to the nearest of 0..255."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
