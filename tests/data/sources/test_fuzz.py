"""Any `dataset.json`, `.npy`, `.npz`, tar file and pattern of names is read, or refused in a sentence."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from inputs import damaged, refused_in_one_sentence, texts
from vitgan.data.sources import tars as patterns
from vitgan.data.sources.arrays import open_array_file
from vitgan.data.sources.labels import read_labels
from vitgan.data.sources.tars import expand, open_tars
from vitgan.errors import UserError

pytestmark = [pytest.mark.fuzz, pytest.mark.usefixtures("one_thread")]

NAMES = ["a/0.png", "a/1.png", "b/0.png"]
LABELS: list[Any] = [
    {"labels": [[name, i] for i, name in enumerate(NAMES)], "classes": ["x", "y", "z"]},
    {"labels": [[name, 0] for name in NAMES]},
    {"labels": None},
]


def test_any_dataset_json_is_read_or_refused_in_one_sentence(fuzz: Any) -> None:
    def check(content: bytes) -> None:
        try:
            labels, classes = read_labels("set", NAMES, content)
        except UserError as error:
            refused_in_one_sentence(error)
        else:
            assert labels is None or (labels.min() >= 0 and labels.max() < len(classes))
            "".join(classes).encode()  # every name can be printed

    fuzz(check, texts(LABELS))


def array_files() -> list[bytes]:
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8)
    plain, several, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(plain, images)
    np.savez(several, images=images, labels=np.array([0, 1]))
    np.savez_compressed(packed, images=images / 255)
    return [file.getvalue() for file in (plain, several, packed)]


def test_any_array_file_is_read_or_refused_in_one_sentence(fuzz: Any, tmp_path: Path) -> None:
    files = array_files()
    suffixes = {content: ".npz" if content[:2] == b"PK" else ".npy" for content in files}

    def check(given: tuple[str, bytes]) -> None:
        path = tmp_path / f"images{given[0]}"
        path.write_bytes(given[1])
        try:
            assert len(open_array_file("set", path))
        except UserError as error:
            refused_in_one_sentence(error)

    fuzz(check, st.one_of(*(damaged([c]).map(lambda d, s=s: (s, d)) for c, s in suffixes.items())))


PIECES = [
    "{",
    "}",
    "..",
    ",",
    "a",
    "0",
    "7",
    "00",
    "99",
    "9" * 30,
    "9" * 5000,
    "{0..9}",
    "{a,b}",
    "/",
    "{" * 2000,
]
PIECES += ["{a}" * 2000, "{0..9}" * 6]


def test_any_pattern_of_tar_files_is_expanded_or_refused(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MOST_SHARDS", 300)

    def check(pieces: list[str]) -> None:
        try:
            assert len(expand("".join(pieces))) <= 300
        except UserError as error:
            refused_in_one_sentence(error)

    fuzz(check, st.lists(st.sampled_from(PIECES), max_size=12))


def tar_files() -> list[bytes]:
    files = []
    for mode in ("w", "w:gz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as tar:
            for name in ("0.png", "0.cls", "1.png", "1.json", "é" * 120 + ".png"):
                member = tarfile.TarInfo(name)
                content = b'{"label": 1}' if name.endswith("json") else b"1"
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        files.append(buffer.getvalue())
    return files


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_any_tar_file_is_read_or_refused_in_one_sentence(fuzz: Any, tmp_path: Path) -> None:
    path = tmp_path / "set.tar"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            source = open_tars(f"wds:{path}", tmp_path)
        except UserError as error:
            refused_in_one_sentence(error)
        else:
            assert source.labels is None or len(source.labels) == sum(source.counts)
            for sample in source.read(0, 0):
                assert sample.data is not None or sample.reason

    fuzz(check, damaged(tar_files()))
