"""A checkpoint's index and tensors: a generator of the recipe's shapes, or refused in one sentence.

What is fuzzed carries right checksums, as a hostile file does; a damaged one is found by them.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save

import vitgan
from inputs import damaged, mutated, refused_in_one_sentence, texts
from tiny_recipes import TINY
from vitgan.engine.checkpoint import (
    DESCRIPTION,
    TENSORS,
    DamagedCheckpoint,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from vitgan.engine.gan import Recipe, build_state
from vitgan.engine.run_folder import check as check_folder
from vitgan.errors import UserError
from vitgan.models import VisionTransformerOptions, ViTGANGeneratorOptions

pytestmark = [pytest.mark.fuzz, pytest.mark.usefixtures("one_thread")]

FACTS = {
    "seconds": 1.5,
    "classes": 0,
    "data": {"fingerprint": "f", "images": 7},
    "environment": {"torch": "2"},
    "evaluation": {"protocol": {"key": "k"}, "metrics": {"fid": 1.0}},
}
SIZES: dict[str, Any] = {"patch": 4, "depth": 1, "width": 8, "heads": 2, "perceptron_width": 8}
RECIPE = dataclasses.replace(
    next(recipe for recipe in TINY if isinstance(recipe, Recipe)),
    generator=ViTGANGeneratorOptions(**SIZES, latent_dim=8, mapping_depth=1),
    discriminator=VisionTransformerOptions(**SIZES),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return build_state(RECIPE, None, CPU).tensors()


@pytest.fixture
def run(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A run of two checkpoints, the second of which is to be damaged."""
    for images in (10, 20):
        save_checkpoint(tmp_path, images, state, {**FACTS, "recipe": RECIPE.to_dict()})
    return tmp_path


def newest(run: Path) -> Path:
    return run / "checkpoints" / "000000000020"


def body_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / DESCRIPTION).read_text())["checkpoint"]


def sealed(body: Any) -> bytes:
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"checkpoint": body, "sha256": checksum}).encode()


def reads(run: Path) -> None:
    """Read the newest checkpoint of `run`; where that is refused, the one before it is to be used."""
    try:
        load_checkpoint(newest(run))
        vitgan.load(newest(run))
    except (DamagedCheckpoint, UserError) as error:
        refused_in_one_sentence(ValueError(str(error)))
        found = load_newest(run, lambda line: refused_in_one_sentence(ValueError(line)))
        assert found is not None
    try:
        check_folder(run, RECIPE)
    except UserError as error:
        refused_in_one_sentence(error)


def test_any_index_is_read_or_refused_in_one_sentence(fuzz: Any, run: Path) -> None:
    path = newest(run) / DESCRIPTION
    body = body_of(newest(run))

    def check(content: bytes) -> None:
        path.write_bytes(content)
        reads(run)

    bodies = mutated([body]).map(sealed)
    fuzz(check, st.one_of(bodies, bodies, texts([json.loads(sealed(body))])))


SHAPES = st.lists(st.sampled_from([0, 1, 2, 64, 2**20, 2**40, 2**63, -1, 1.5, "1", None, True]), max_size=4)
HEADER_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "F4", "X", "", 7]),
        "shape": SHAPES,
        "data_offsets": st.lists(st.integers(-1, 2**64), max_size=3),
        "x": st.none(),
    },
)


def header_and_data(content: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@st.composite
def other_headers(draw: st.DrawFn, content: bytes) -> bytes:
    """The file with one entry of its header another, or two of them exchanged."""
    header, data = header_and_data(content)
    names = sorted(header)
    name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    match draw(st.sampled_from(["change", "exchange", "rename", "remove", "another"])):
        case "change":
            header[name] = {**header[name], **draw(HEADER_ENTRY)}
        case "exchange":
            header[name], header[other] = header[other], header[name]
        case "rename":
            header[draw(st.text(max_size=9))] = header.pop(name)
        case "remove":
            del header[name]
        case _:
            header[draw(st.sampled_from([*names, "__metadata__", "x"]))] = draw(HEADER_ENTRY)
    return joined(header, data)


def test_any_tensors_are_read_or_refused_in_one_sentence(
    fuzz: Any, run: Path, state: dict[str, torch.Tensor]
) -> None:
    path, body = newest(run) / TENSORS, body_of(newest(run))
    few = {name: state[name] for name in list(state)[:6]}
    contents = [save(few), (run / "checkpoints" / "000000000010" / TENSORS).read_bytes()]

    def check(content: bytes) -> None:
        path.write_bytes(content)
        checksum = hashlib.sha256(content).hexdigest()
        (newest(run) / DESCRIPTION).write_bytes(sealed({**body, "sha256": checksum}))
        reads(run)

    fuzz(check, st.one_of(damaged(contents), damaged(contents), other_headers(contents[1])))


def test_no_flipped_bit_is_used(fuzz: Any, run: Path) -> None:
    """Without a new checksum every damage is found, and the checkpoint before is used."""
    files = {name: (newest(run) / name).read_bytes() for name in (DESCRIPTION, TENSORS)}
    good = load_checkpoint(newest(run))[1]

    def check(damage: tuple[str, bytes]) -> None:
        name, content = damage
        (newest(run) / name).write_bytes(content)
        found = load_newest(run, lambda _: None)
        (newest(run) / name).write_bytes(files[name])
        assert found is not None
        # White space between values may change: the same is read then.
        assert found[1]["images"] == 10 or content == files[name] or found[1] == good

    strategies = [damaged([content]).map(lambda c, name=name: (name, c)) for name, content in files.items()]
    fuzz(check, st.one_of(*strategies))
