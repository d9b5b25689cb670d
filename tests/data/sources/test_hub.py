"""`hf:` sources, which the Hugging Face library `datasets` reads."""

import contextlib
import itertools
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from streamed import COUNT, build, encoded, joined, numbers, take
from vitgan.data import batches, open_source
from vitgan.errors import UserError

pytestmark = [
    pytest.mark.usefixtures("forked"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.mark.parametrize("kind", ["hub_folder", "hub_tables"])
def test_sets_of_the_hubs_library_give_every_image_with_its_label(
    kind: str, request: pytest.FixtureRequest
) -> None:
    images = build(request.getfixturevalue(kind), flip=False)
    assert (len(images), images.classes) == (COUNT, ("cat", "dog"))
    found, labels = joined(take(images, COUNT, batch=1))
    assert sorted(numbers(found)) == list(range(COUNT))
    assert labels.tolist() == [n % 2 for n in numbers(found)]


@pytest.mark.parametrize("kind", ["hub_folder", "hub_tables"])
@pytest.mark.parametrize("workers", [0, 2])
def test_sets_of_the_hubs_library_go_on_at_the_exact_sample(
    workers: int, kind: str, request: pytest.FixtureRequest
) -> None:
    source: str = request.getfixturevalue(kind)
    whole, labels = joined(take(build(source, workers=0), 36, batch=1))
    for seen in (6, 20):
        rest, rest_labels = joined(take(build(source, workers=workers), 4, batch=4, images_seen=seen))
        assert torch.equal(rest, whole[seen : seen + 16])
        assert torch.equal(rest_labels, labels[seen : seen + 16])


def test_a_row_without_an_image_and_a_file_that_is_gone_are_named_and_replaced(
    tmp_path: Path, hub_folder: str
) -> None:
    library: Any = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": encoded(1), "path": None}, None]}
    (tmp_path / "holes").mkdir()
    table = library.Dataset.from_dict(rows, features=library.Features({"image": library.Image()}))
    table.to_parquet(tmp_path / "holes" / "train.parquet")
    images = build(f"hf:{tmp_path / 'holes'}", labels=False)
    assert numbers(images.get([0, 1]).float() / 127.5 - 1) == [1, 1]
    assert [(item.name, item.reason) for item in images.skipped] == [("image 1", "there is none")]
    images = build(hub_folder)
    (tmp_path / "hub" / "train" / "cat" / "02.png").unlink()
    assert numbers(images.get([0, 1]).float() / 127.5 - 1) == [0, 4]
    assert [item.name for item in images.skipped] == ["image 1"]
    assert "No such file" in images.skipped[0].reason


@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_table_is_refused_in_a_sentence(cut: bool, hub_tables: str) -> None:
    path = Path(hub_tables.removeprefix("hf:")) / "train-1.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if cut else data[:4] + bytes(200) + data[204:])
    with pytest.raises(UserError, match=r"cannot be read to its end \(.*\): check its files") as caught:
        open_source(hub_tables)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hub_folder", "hub_tables"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_the_hubs_library_that_goes_away_is_waited_for(
    workers: int,
    kind: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source: str = request.getfixturevalue(kind)
    folder = Path(source.removeprefix("hf:"))
    away = folder.with_name("away")
    monkeypatch.setattr("vitgan.data.retry.time", SimpleNamespace(sleep=lambda _: away.rename(folder)))
    expected, images = joined(take(build(source, workers=0), 12)), build(source, workers=workers)
    with contextlib.closing(batches(images, batch=3, seed=0, images_seen=0, device="cpu")) as stream:
        found = [next(stream)]
        folder.rename(away)
        found += itertools.islice(stream, 11)
    assert all(torch.equal(a, b) for a, b in zip(joined(found), expected, strict=True))
    assert images.skipped == []
    assert (caplog.text.count("waiting for it"), caplog.text.count("It is back")) == (1, 1)


def test_what_was_counted_before_is_counted_again_where_the_set_has_changed(
    hub_folder: str, tmp_path: Path
) -> None:
    assert len(open_source(hub_folder)) == COUNT
    assert len(list((tmp_path / "cache" / "counts").iterdir())) == 1
    (tmp_path / "hub" / "train" / "cat" / "99.png").write_bytes(encoded(99))
    source = open_source(hub_folder)
    assert source.labels is not None
    assert np.bincount(source.labels).tolist() == [9, 7]


def test_a_set_without_classes_has_no_labels(tmp_path: Path, hub_folder: str) -> None:
    for file in (tmp_path / "hub").glob("*/*/*.png"):
        file.rename(tmp_path / "hub" / "train" / file.name)
    assert len(build(hub_folder, labels=False)) == COUNT
    with pytest.raises(UserError, match="has no labels"):
        build(hub_folder)


def test_a_set_of_the_hub_that_is_not_here_is_refused_in_a_sentence_without_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The patch has the effect of HF_HUB_OFFLINE=1, which the libraries read when they are imported."""
    library: Any = pytest.importorskip("datasets")
    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names, **_: asked.append(names) or [])
    with pytest.raises(
        UserError, match=r"hf:nobody/nothing cannot be opened \(.*\): check the name"
    ) as caught:
        open_source("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    assert asked == []


def test_the_hubs_library_missing_names_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "vitgan\[hub\]"'):
        open_source("hf:some/set")


def test_a_set_that_is_not_there_or_has_no_images_is_refused(tmp_path: Path, hub_folder: str) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    with pytest.raises(UserError, match="has no column of images, but text: pass another set"):
        open_source(f"hf:{tmp_path / 'texts'}")
    with pytest.raises(UserError, match=r"cannot be opened .*: check the name, the configuration, the split"):
        open_source(f"{hub_folder}::test")
    with pytest.raises(UserError, match=r"is no data set: write hf:NAME, or hf:NAME:CONFIG:SPLIT"):
        open_source("hf:")
