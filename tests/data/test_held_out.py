"""The division of a set into training and held-out images, and the reading of either part."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from vitgan.data import DataOptions
from vitgan.data.held_out import part, read, split
from vitgan.errors import UserError


def test_a_split_holds_out_the_same_share_of_every_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    seen, held = split(labels, share=0.2, most=5000)
    assert torch.equal(torch.cat((seen, held)).sort()[0], torch.arange(63))
    assert torch.bincount(labels[held], minlength=4).tolist() == [10, 2, 1, 0]
    assert torch.equal(split(labels, share=0.2, most=5000)[1], held)
    # One at least of a class that has two:
    assert len(split(labels, share=0.5, most=6)[1]) == 7
    with pytest.raises(UserError, match="No class has two images"):
        split(torch.tensor([0, 1]), share=0.2, most=5000)


def test_an_unreadable_image_gives_way_to_one_of_its_own_part(tmp_path: Path) -> None:
    """Where a set is not in memory, the replacement comes with its own label."""
    for number in range(6):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 40 * number).save(folder / f"{number}.png")
    (tmp_path / "a" / "2.png").write_bytes(b"damaged")
    options = DataOptions(source=str(tmp_path), resolution=8, channels=1, labels=True, memory_mib=0)
    images = options.build()  # in order: 0, 2, 4 of class a, 1, 3, 5 of class b
    pixels, labels = read(part(images, torch.tensor([1, 3])))
    assert pixels[:, 0, 0, 0].tolist() == [40, 40]
    assert labels is not None
    assert labels.tolist() == [1, 1]
