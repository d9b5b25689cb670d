"""The source `hf:NAME`: a set of the Hugging Face Hub, or a local folder that the `datasets` library reads.

It is a stream. The library gives the encoded bytes, and the images are decoded like those of any source.
Shapes: N images.
"""

import contextlib
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitgan.compat import resolved_features
from vitgan.data.retry import LOST, Unreachable, reaching
from vitgan.data.sources.streams import Sample, Stream, read_count, write_count
from vitgan.data.transforms import UnreadableImage, read_bounded, reason
from vitgan.errors import UserError
from vitgan.terminal import can_draw

FIRST = 64  # images whose mean size stands for that of all


class HubStream(Stream):
    """The images of one split of a set. Raises UserError where it has none.

    source: as the user wrote it; identity: name, configuration and split; rows: the split, as the library
    streams it; counts: the file in which the labels are kept once they are counted, or None.
    """

    labels_advice = "choose a set, or a configuration, with a column of the type ClassLabel"

    def __init__(self, source: str, identity: list[str], rows: Any, counts: Path | None) -> None:
        self.source, self._identity, self._rows = source, identity, rows
        folder = Path(source.removeprefix("hf:").split(":")[0])
        self._folder = folder if folder.is_dir() else None
        self.image, label = _columns(source, rows.features)
        count, self.labels = _counted(rows, label, counts)
        if not count:
            raise UserError(f"{source} has no images: choose another split, as in hf:NAME:CONFIG:SPLIT.")
        names = () if label is None or self.labels is None else rows.features[label].names
        self.classes = tuple(names)
        self.unlabelled = "" if names else _why_unlabelled(label)
        super().__init__([count], 1.0)
        sizes = [len(sample.data or b"") for sample in itertools.islice(self.read(0, 0), FIRST)]
        self.sample_bytes = sum(sizes) / len(sizes)

    def read(self, shard: int, start: int) -> Iterator[Sample]:
        """The images from number `start` on. Raises Unreachable."""
        assert shard == 0
        number = start
        try:
            rows = self._rows.select_columns([self.image])
            rows = rows.cast_column(self.image, _library().Image(decode=False))
            for row in itertools.islice(rows.skip(start), self.counts[0] - start):
                yield self._sample(number, row[self.image])
                number += 1
        except Unreachable:
            raise
        except Exception as error:  # the library, its file formats and its network raise many types
            raise Unreachable(self.source, reason(error)) from error
        for missing in range(number, self.counts[0]):
            yield Sample(missing, f"image {missing}", None, "the set ends before it")

    def content(self) -> Iterator[bytes]:
        """Its names, its number of images and its columns, which tell this set from any other."""
        yield json.dumps([*self._identity, len(self), repr(self._rows.features)]).encode()

    def _sample(self, number: int, value: dict[str, Any] | None) -> Sample:
        name = f"image {number}"
        try:
            if value is None:
                return Sample(number, name, None, "there is none")
            data = value["bytes"] if value.get("bytes") is not None else self._file(value["path"])
            return Sample(number, name, data)
        except UnreadableImage as error:
            return Sample(number, name, None, str(error))
        except OSError as error:
            if error.errno in LOST:
                raise
            return Sample(number, name, None, reason(error))

    def _file(self, path: str) -> bytes:
        with contextlib.nullcontext() if self._folder is None else reaching(self._folder):
            return _file(path)


def open_hub(source: str, cache: Path) -> HubStream:
    """The images of `hf:NAME`, `hf:NAME:CONFIG` or `hf:NAME:CONFIG:SPLIT`; CONFIG may be empty.

    NAME is that of a data set on the Hub, or a local folder; the split is `train` unless it is given. What
    was counted is kept in `cache`/counts. Raises UserError.
    """
    name, config, split, *more = [*source.removeprefix("hf:").split(":"), "", ""]
    if not name or len(more) > 2 or any(more):
        raise UserError(f"{source!r} is no data set: write hf:NAME, or hf:NAME:CONFIG:SPLIT.")
    identity = [Path(name).name if Path(name).is_dir() else name, config, split or "train"]
    rows, files = _load(source, name, config, split or "train")
    key = hashlib.sha256(json.dumps([source, *files]).encode()).hexdigest()
    try:
        return HubStream(source, identity, rows, cache / "counts" / f"{key}.json" if files else None)
    except UserError:
        raise
    except Exception as error:  # the library, its file formats and its network raise many types
        why = error.reason if isinstance(error, Unreachable) else reason(error)
        raise UserError(
            f"{source} cannot be read to its end ({why[:200].rstrip('.')}): check its files and the network."
        ) from error


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            'hf: needs the library `datasets`, which is not there: pip install "vitgan[hub]".'
        ) from error
    if not can_draw(sys.stderr):
        datasets.disable_progress_bars()
    return datasets


def _load(source: str, name: str, config: str, split: str) -> tuple[Any, list[str]]:
    """The streamed rows, with their columns' types, and the files that hold them, with dates or tags."""
    library = _library()
    try:
        builder = library.load_dataset_builder(name, config or None)
        rows = resolved_features(builder.as_streaming_dataset(split=split))
    except Exception as error:  # it fails in as many ways as there are libraries below it
        raise UserError(
            f"{source} cannot be opened ({reason(error)[:200].rstrip('.')}): "
            "check the name, the configuration, the split and the network."
        ) from error
    files = (builder.config.data_files or {}).get(split)
    return rows, [] if files is None else [*files, *map(str, files.origin_metadata)]


def _why_unlabelled(label: str | None) -> str:
    return "it has no ClassLabel column" if label is None else f"a row has no {label}"


def _columns(source: str, features: Any) -> tuple[str, str | None]:
    """The names of the first column of images and of the first column of classes, the latter perhaps None."""
    library = _library()
    images = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, library.ClassLabel)]
    if not images:
        raise UserError(f"{source} has no column of images, but {', '.join(features)}: pass another set.")
    return images[0], labels[0] if labels else None


def _counted(rows: Any, label: str | None, counts: Path | None) -> tuple[int, np.ndarray | None]:
    """N and the labels int64 (N,), which are None where there are none or one is missing."""
    known = (rows.info.splits or {}).get(str(rows.split))
    if label is None and known is not None and known.num_examples:
        return known.num_examples, None
    labels = None if counts is None else read_count(counts)
    if labels is None:
        column = label or next(iter(rows.features))
        values = (row[column] for row in rows.select_columns([column]))
        labels = [value if label and isinstance(value, int) else -1 for value in values]
        if counts is not None:
            write_count(counts, labels)
    found = np.array(labels, dtype=np.int64)
    return len(found), found if found.size and found.min() >= 0 else None


def _file(path: str) -> bytes:
    """The content of a file of a set, which may lie on the Hub or in an archive there."""
    if "://" not in path:
        with Path(path).open("rb") as file:
            return read_bounded(file)
    import fsspec

    with fsspec.open(path, "rb") as file:
        return read_bounded(file)  # pyright: ignore[reportArgumentType]
