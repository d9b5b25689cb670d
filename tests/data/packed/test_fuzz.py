"""Any bytes as the files of a packed folder: it is read as it was packed, or refused in a sentence."""

import dataclasses
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from inputs import damaged, mutated, refused_in_one_sentence, texts
from vitgan.data.packed import index
from vitgan.data.packed.index import (
    CHECKSUMS,
    INDEX,
    LABELS,
    SKIPPED,
    File,
    Index,
    Plan,
    npy_header,
    shard_name,
)
from vitgan.data.packed.reader import open_packed
from vitgan.data.transforms import UnreadableImage
from vitgan.errors import UserError

pytestmark = [pytest.mark.fuzz, pytest.mark.usefixtures("one_thread")]

PLAN = Plan(source="set", origin="0" * 64, resolution=4, channels=1, shard_images=2)


def write(path: Path, content: bytes) -> File:
    path.write_bytes(content)
    return File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed folder of three labelled images in two shards."""
    images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 1, 4, 4)
    parts = [images[:2], images[2:]]
    shards = tuple(
        (shard_name(n), len(part), write(tmp_path / shard_name(n), PLAN.header(len(part)) + part.tobytes()))
        for n, part in enumerate(parts)
    )
    sums = np.array([zlib.crc32(image.tobytes()) for image in images], "<u4")
    arrays = {
        CHECKSUMS: write(tmp_path / CHECKSUMS, npy_header("<u4", (3,)) + sums.tobytes()),
        LABELS: write(tmp_path / LABELS, npy_header("<i8", (3,)) + np.array([0, 1, 1], "<i8").tobytes()),
        SKIPPED: write(tmp_path / SKIPPED, b""),
    }
    whole = Index(
        plan=PLAN, count=3, classes=("a", "b"), labels=True, skipped=0, shards=shards, arrays=arrays
    )
    index.write_checked(tmp_path / INDEX, "packed", whole.body())
    return tmp_path


def sealed(body: Any) -> bytes:
    checksum = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"packed": body, "sha256": checksum}).encode()


def reads(folder: Path) -> int:
    """How many images of a folder can be read; 0 where it is refused as a whole."""
    try:
        source = open_packed("set", folder)
    except UserError as error:
        refused_in_one_sentence(error)
        return 0
    assert len(source) == 3
    read = 0
    for number in range(3):
        try:
            read += source.pixels(number).shape == (1, 4, 4)
        except UnreadableImage:
            continue
    assert [item for name, _, _ in source.index.shards for item in Path(name).parts[:-1]] == []
    return read


def test_what_is_fuzzed_is_right_before(packed: Path) -> None:
    assert reads(packed) == 3


@pytest.mark.slow
def test_any_index_is_right_or_refused_in_one_sentence(fuzz: Any, packed: Path) -> None:
    whole = json.loads((packed / INDEX).read_bytes())

    def check(content: bytes) -> None:
        (packed / INDEX).write_bytes(content)
        reads(packed)

    bodies = mutated([whole["packed"]]).map(sealed)
    fuzz(check, st.one_of(bodies, bodies, texts([whole])))


def test_any_files_of_a_packed_folder_are_read_or_refused(fuzz: Any, packed: Path) -> None:
    """The index is unchanged, or its checksums are made to match the damaged files."""
    names = [shard_name(0), shard_name(1), CHECKSUMS, LABELS]
    files = {name: (packed / name).read_bytes() for name in [*names, INDEX]}
    body = json.loads(files[INDEX])["packed"]

    def check(given: tuple[str, bytes, bool]) -> None:
        name, content, vouched = given
        file = dataclasses.asdict(write(packed / name, content))
        if vouched:
            shards = [one | file if one["file"] == name else one for one in body["shards"]]
            arrays = {key: file if key == name else one for key, one in body["arrays"].items()}
            (packed / INDEX).write_bytes(sealed({**body, "shards": shards, "arrays": arrays}))
        reads(packed)
        for changed in (name, INDEX):
            (packed / changed).write_bytes(files[changed])

    damages = [st.tuples(st.just(name), damaged([files[name]]), st.booleans()) for name in names]
    fuzz(check, st.one_of(*damages))
