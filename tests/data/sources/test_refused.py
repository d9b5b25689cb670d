"""A source that cannot be used is refused with a sentence that says what is wrong with it."""

import io
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitgan.data import DataOptions
from vitgan.data import sources as sources_module
from vitgan.errors import UserError

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(value: int) -> bytes:
    return encoded(Image.new("RGB", (4, 4), (value, value, value)))


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def truncated_jpeg() -> bytes:
    return encoded(noise(64), "JPEG")[:1500]


BROKEN = {
    "1_truncated.jpg": truncated_jpeg(),
    "2_empty.png": b"",
    "3_text.png": b"no image",
    "5_half.png": png(9)[:50],
}


def write_folder(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def build(source: str | Path, **changes: Any) -> Any:
    return DataOptions(**{"source": str(source), "resolution": 4, **changes}).build()


def sentence(source: str | Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(source, **changes)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("memory_mib", [0, 1])
def test_a_source_without_a_readable_image_names_one(tmp_path: Path, memory_mib: int) -> None:
    text = sentence(write_folder(tmp_path, BROKEN), memory_mib=memory_mib)
    assert str(tmp_path) in text
    assert "1_truncated.jpg" in text
    assert ".png" in text


def test_a_source_without_images_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in sentence(write_folder(tmp_path, {"notes.txt": b"x"}))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
    assert ".jpeg" in sentence(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("source", "guess"), [("cifar", "cifar10"), ("Digits", "digits"), ("lsun", "lsun-bedroom")]
)
def test_a_near_miss_is_guessed(source: str, guess: str) -> None:
    assert f"did you mean {guess}?" in sentence(source)


def test_an_unknown_source_lists_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(b"x")
    for source in ("nothing/like/it", tmp_path / "set.tar"):
        text = sentence(source)
        assert all(word in text for word in (str(source), "digits", "celeba", "folder", ".npz"))


def test_labels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    assert "has no labels" in sentence(write_folder(tmp_path, {"a.png": png(1)}), labels=True)


@pytest.mark.parametrize(("field", "value"), [("resolution", 0), ("workers", -1), ("memory_mib", -1)])
def test_a_number_out_of_range_names_its_setting(field: str, value: int) -> None:
    assert f"--data.{field.replace('_', '-')} must be" in sentence("digits", **{field: value})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not JSON"),
        ("[]", "must be"),
        ('{"labels": 3}', "must be"),
        ('{"labels": [["a.png", 0]], "classes": 3}', "list of names"),
        ('{"labels": ["a.png"]}', "'a.png'"),
        ('{"labels": [["a.png", "cat"]]}', "'cat'"),
        ('{"labels": [["a.png", true]]}', "True"),
        ('{"labels": [["a.png", 2]], "classes": ["x", "y"]}', "['a.png', 2]"),
        ('{"labels": [["a.png", -1]]}', "-1"),
        ('{"labels": [["b.png", 0]]}', "b.png"),
        ('{"labels": [["../a.png", 0]]}', "leads outside"),
        ('{"labels": [["/a.png", 0]]}', "leads outside"),
        ('{"labels": [["a.png", 0], ["a.png", 0]]}', "twice"),
        ('{"labels": []}', "a.png"),
    ],
)
def test_a_wrong_dataset_json_is_named(tmp_path: Path, content: str, named: str) -> None:
    text = sentence(write_folder(tmp_path, {"a.png": png(1), "dataset.json": content.encode()}))
    assert "dataset.json" in text
    assert named in text


@pytest.mark.parametrize("data", [b"", b"this is no zip", b"PK\x03\x04 nor is this"])
def test_a_zip_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    assert "cannot be read as a zip" in sentence(tmp_path / "a.zip")


def test_a_damaged_member_of_a_zip_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.png", png(1))
        archive.writestr("2.png", png(2))
    path.write_bytes(path.read_bytes().replace(png(2)[20:40], b"?" * 20, 1))
    images = build(path)
    assert [item.name for item in images.skipped] == ["2.png"]
    assert len(images) == 1


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((4, 4), np.uint8), "(4, 4)"),
        (np.zeros((2, 4, 4, 2), np.uint8), "(2, 4, 4, 2)"),
        (np.zeros((0, 4, 4), np.uint8), "no images"),
        (np.zeros((2, 4, 4), np.int32), "int32"),
        (np.full((2, 4, 4), 2.0), "float64"),
        (np.full((2, 4, 4), np.nan), "float64"),
        (np.array([None, "x"], dtype=object), "cannot be read"),
    ],
)
def test_a_wrong_array_is_said(tmp_path: Path, array: np.ndarray, named: str) -> None:
    np.save(tmp_path / "a.npy", array)
    assert named in sentence(tmp_path / "a.npy")


@pytest.mark.parametrize("labels", [[0], [0, -1], [0.5, 1.0], [[0], [1]]])
def test_wrong_labels_of_an_array_are_said(tmp_path: Path, labels: list[Any]) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array(labels))
    assert "2 integers" in sentence(tmp_path / "a.npz")


def test_an_npz_of_several_arrays_names_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train=np.zeros((2, 4, 4)), test=np.zeros((2, 4, 4)))
    assert "train, test" in sentence(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("data", [b"", b"no array at all, by any reading"])
def test_a_file_that_is_no_array_is_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(data)
    assert "cannot be read" in sentence(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("source", ["cifar10", "celeba"])
def test_a_failed_download_says_what_else_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def fail(*_positional: Any, **_named: Any) -> None:
        raise OSError("Too many users\nhave viewed this file")

    monkeypatch.setenv("VITGAN_DATA", str(tmp_path / "root"))
    datasets = SimpleNamespace(CIFAR10=fail, CelebA=fail)
    monkeypatch.setattr(sources_module, "_torchvision_datasets", lambda _name: datasets)
    text = sentence(source)
    assert "--data FOLDER_OR_ZIP" in text
    assert "Too many users have" in text


def test_torchvision_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "torchvision" in sentence("cifar10")


def test_lsun_without_its_files_says_where_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path))
    text = sentence("lsun-bedroom")
    assert all(
        word in text for word in ("bedroom_train_lmdb.zip", str(tmp_path), 'pip install "vitgan[lsun]"')
    )


def test_lsun_whose_files_are_damaged_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lmdb")
    write_folder(tmp_path / "bedroom_train_lmdb", {"data.mdb": b"no database" * 999})
    monkeypatch.setenv("VITGAN_DATA", str(tmp_path))
    assert "lsun-bedroom cannot be opened" in sentence("lsun-bedroom")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photos.rar", "archive that is not read: unpack it"),
        ("photos.7z", "archive that is not read: unpack it"),
        ("photos.png.gz", "archive that is not read: unpack it"),
        ("photos.tar", "a tar file: pass wds: and its path"),
        ("photos.TAR.gz", "a tar file: pass wds: and its path"),
        ("labels.csv", "a table or a text, no images: pass the folder"),
        ("train.parquet", "a table: pass hf: and the folder"),
        ("set.h5", "a file of another library"),
        ("film.mp4", "a film: write its frames"),
        ("cat.jpg", "one image, which is no set: pass the folder"),
        ("cat", "one image, which is no set: pass the folder"),
        ("set.unknown", "a file of a kind that is not read: pass a folder or .zip"),
    ],
)
def test_an_existing_file_that_is_no_source_is_called_what_it_is(
    name: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(png(1) if name.startswith("cat") else b"content")
    assert sentence(path).startswith(f"{path} is ")
    assert said in sentence(path)


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of Unix")
def test_a_pipe_and_a_broken_link_are_called_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.zip")
    (tmp_path / "set").symlink_to("nowhere")
    assert "but a pipe, a socket or a device" in sentence(tmp_path / "set.zip")
    assert "is a broken link, to nowhere" in sentence(tmp_path / "set")
