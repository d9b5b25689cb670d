"""A tiny recipe of every kind."""

import dataclasses
from typing import Any

from vitgan import recipes

ROWS = [f"digits-{row}" for rows in recipes.ROWS.values() for row in rows]
SMALL = {
    **dict.fromkeys(("depth", "mapping_depth"), 2),
    **dict.fromkeys(("width", "perceptron_width", "latent_dim", "channel_max", "hidden", "projection"), 64),
    "channel_base": 64,
    "heads": 2,
}


def shrunk(options: Any) -> Any:
    """A tiny one of the same kind."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value: Any = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = shrunk(value)
        elif isinstance(value, int) and field.name in SMALL:
            changes[field.name] = SMALL[field.name]
        elif isinstance(value, tuple) and field.name == "depths":
            changes[field.name] = (1,) * len(value)
    return dataclasses.replace(options, **changes)


KINDS = ["digits", *ROWS, "vit-classifier-small", "siren-small"]
TINY = [shrunk(recipes.get(name)) for name in KINDS]
