"""The log of a run: what is in it, and what a resumed run does with the lines it finds."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitgan.engine.loggers import RunLog, _Whole, read_log, split_key
from vitgan.io import replacing


def written(folder: Path, *counts: int, images_seen: int = 0) -> None:
    log = RunLog(folder, images_seen)
    for images in counts:
        log.scalars(images, {"seconds": images / 10, "loss_generator": float(images)})
    log.close()


def tensorboard(folder: Path):
    """What TensorBoard itself reads from the run's events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_every_line_is_one_object_with_images_and_seconds(tmp_path: Path):
    written(tmp_path, 64, 128)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[1] == {"images": 128, "seconds": 12.8, "loss_generator": 128.0}
    assert read_log(tmp_path) == lines


def test_a_line_is_on_disk_before_the_log_is_closed(tmp_path: Path):
    log = RunLog(tmp_path, 0)
    log.scalars(64, {"seconds": 1.0})
    assert len(read_log(tmp_path)) == 1
    log.close()


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path):
    written(tmp_path, 64, 128, 192)
    written(tmp_path, 160, images_seen=128)
    assert [line["images"] for line in read_log(tmp_path)] == [64, 128, 160]


def test_tensorboard_forgets_it_too(tmp_path: Path):
    written(tmp_path, 64, 128, 192)
    written(tmp_path, 160, images_seen=128)
    shown = [event.step for event in tensorboard(tmp_path).Scalars("loss/generator")]
    assert shown == [64, 128, 160]


def test_a_name_that_is_not_utf_8_is_escaped_for_tensorboard(tmp_path: Path):
    log = RunLog(tmp_path, 0)
    log.scalars(64, {"seconds": 1.0, "evaluation_class_share_caf\udce9": 0.5})
    log.close()
    assert r"evaluation/class_share_caf\udce9" in tensorboard(tmp_path).Tags()["scalars"]


def test_a_torn_last_line_is_left_out_and_not_built_upon(tmp_path: Path):
    written(tmp_path, 64, 128)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"images": 130, "sec')
    assert [line["images"] for line in read_log(tmp_path)] == [64, 128]
    written(tmp_path, 192, images_seen=192)
    assert [line["images"] for line in read_log(tmp_path)] == [64, 128, 192]


def test_a_damaged_line_is_left_out(tmp_path: Path):
    (tmp_path / "log.jsonl").write_bytes(
        b'{"images": 1, "seconds": 1}\n\x00garbage\n[1]\n{"images": 3, "seconds": 2}\n'
    )
    assert [line["images"] for line in read_log(tmp_path)] == [1, 3]
    RunLog(tmp_path, 3).close()
    assert [line["images"] for line in read_log(tmp_path)] == [1, 3]


def test_a_number_that_is_not_finite_is_valid_json_and_read_as_nan(tmp_path: Path):
    log = RunLog(tmp_path, 0)
    log.scalars(64, {"seconds": 1.0, "loss_generator": math.nan, "loss_discriminator": math.inf})
    log.close()
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()
    assert "Infinity" not in (tmp_path / "log.jsonl").read_text()
    assert math.isnan(read_log(tmp_path)[0]["loss_generator"])


def test_a_folder_without_a_log_reads_as_no_lines(tmp_path: Path):
    assert read_log(tmp_path) == []


def test_a_sample_reaches_tensorboard(tmp_path: Path):
    Image.fromarray(np.full((10, 12), 200, dtype=np.uint8)).save(tmp_path / "a.png")
    log = RunLog(tmp_path, 0)
    log.sample(640, tmp_path / "a.png")
    log.close()
    (event,) = tensorboard(tmp_path).Images("samples")
    assert (event.step, event.width, event.height) == (640, 12, 10)


class FullDisk:
    """A file that takes `room` bytes and then fails as a full disk does."""

    def __init__(self, file, room: int):
        self.file, self.room = file, room
        self.seek, self.truncate, self.close, self.flush = file.seek, file.truncate, file.close, file.flush

    def write(self, content: bytes) -> int:
        taken = content[: self.room]
        self.room -= len(taken)
        if not taken:
            raise OSError(28, "No space left on device")
        return self.file.write(taken)


def test_a_line_that_does_not_fit_raises_and_leaves_nothing_behind(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    with path.open("ab", buffering=0) as file:
        whole = _Whole(FullDisk(file, room=15))  # pyright: ignore[reportArgumentType]
        whole.write(b"first line\n")
        with pytest.raises(OSError, match="No space left"):
            whole.write(b"second line\n")
    assert path.read_bytes() == b"first line\n"


def test_replacing_keeps_the_old_content_when_the_new_one_fails(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half_written():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        half_written()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("key", "group", "name"),
    [
        ("loss_discriminator", "loss", "discriminator"),
        ("term_bcr_real", "term", "bcr_real"),
        ("gradient_norm_generator", "gradient_norm", "generator"),
        ("images_per_second", "images_per_second", ""),
        ("fid_1k", "fid", "1k"),
        ("images", "images", ""),
    ],
)
def test_keys_are_grouped(key: str, group: str, name: str):
    assert split_key(key) == (group, name)
