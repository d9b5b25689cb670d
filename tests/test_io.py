"""JSON that others wrote: what is read, and what is refused."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitgan.io import MOST_BYTES, parse_json, read_json, read_sealed, sealed, write_json, write_text
from vitgan.terminal import printable

REFUSED = {
    "nothing": (b"", "Expecting value"),
    "no JSON": (b"{]", "Expecting"),
    "a key twice": (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' twice"),
    "half of a pair": (rb'["\ud83d"]', "half of a surrogate pair"),
    "half of a pair as a key": (rb'{"\ude00": 1}', "half of a surrogate pair"),
    "a half below the bytes of names": (rb'["\udc7f"]', "half of a surrogate pair"),
    "a half above them": (rb'["\udd00"]', "half of a surrogate pair"),
    "half of a pair in bytes": (b'["\xed\xa0\x80"]', "decode"),
    "no text": (b'["\xff"]', "decode"),
    "51 lists": (b"[" * 51 + b"]" * 51, "nested too deeply"),
    "100,000 lists": (b"[" * 100_000, "nested too deeply"),
    "a number of 5000 digits": (b"9" * 5000, "digits"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_wrong_texts_are_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(content)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (rb'["\ud83d\ude00", "\\ud83d"]', ["😀", "\\ud83d"]),
        (rb'{"caf\udce9": "\udc80\uDCFF"}', {"caf\udce9": "\udc80\udcff"}),
        (b'\xef\xbb\xbf{"a": null}', {"a": None}),
        ('{"é": 1}'.encode("utf-16"), {"é": 1}),
        (b"[" * 49 + b"]" * 49 + b" ", None),
    ],
)
def test_right_texts_are_read(content: bytes, value: object) -> None:
    found = parse_json(content)
    assert value is None or found == value


def test_a_file_above_64_mib_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(100 * MOST_BYTES)  # a hole: no disk is taken
    with pytest.raises(ValueError, match="larger than 64 MiB"):
        read_json(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OSError, match="no file"):
        read_json(tmp_path / "pipe.json")


@given(st.binary(max_size=12).map(os.fsdecode))
def test_any_name_of_a_file_is_read_as_it_was_written_and_can_be_shown(name: str) -> None:
    body = {name: [name]}
    assert parse_json(json.dumps(sealed("body", body)).encode())["body"] == body
    assert printable(name).encode().decode() == printable(name)
    assert printable(name) == name or "\\udc" in printable(name)


def test_files_hold_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = "caf\udce9"
    write_text(tmp_path / name, f"é {name}")
    assert (tmp_path / name).read_text("utf-8") == r"é caf\udce9"
    write_json(tmp_path / "a.json", sealed("body", name))
    assert read_sealed(tmp_path / "a.json", "body") == name
