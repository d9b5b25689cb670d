"""What the tests of runs share."""

from collections.abc import Callable

import pytest
import torch
from runs import ALL_ON, Command, final


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, torch.Tensor]]:
    """straight(train, images) is the state after `images` images without a stop."""
    known: dict[int, dict[str, torch.Tensor]] = {}

    def run(train: Command, images: int) -> dict[str, torch.Tensor]:
        if images not in known:
            folder = tmp_path_factory.mktemp("straight")
            assert train(folder, "--images", str(images), *ALL_ON) == 0
            known[images] = final(folder)
        return known[images]

    return run
