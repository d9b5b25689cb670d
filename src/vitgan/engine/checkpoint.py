"""Checkpoints and exported generators: safetensors and JSON under checksum, no pickle.

`RUN/checkpoints/000000012800/{tensors.safetensors, checkpoint.json}`, named by images seen. A folder is
written under a temporary name and renamed, so that a checkpoint is there whole or not at all. An exported
generator is a folder of `model.safetensors` and `config.json`.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from vitgan.data import ImageSet
from vitgan.data.dataset import difference
from vitgan.data.sources import relative_to
from vitgan.distributed import collectives
from vitgan.engine.recipe import FORMAT, MOST_FORMAT, RunRecipe, read_recipe, whole_number, wrong_field
from vitgan.engine.task import Task
from vitgan.errors import UserError
from vitgan.io import BrokenSeal, read_sealed, replacing, sealed, sha256_of
from vitgan.terminal import printable

TENSORS, DESCRIPTION = "tensors.safetensors", "checkpoint.json"


class DamagedCheckpoint(Exception):
    """Raised for a checkpoint that is incomplete or damaged; the message says how."""


class NewerCheckpoint(UserError):
    """Raised for a checkpoint of a newer format than this version of vitgan knows."""


def save_checkpoint(
    run: Path, images_seen: int, tensors: dict[str, Tensor], description: dict[str, Any]
) -> Path:
    """Write the checkpoint of `run` at `images_seen` images, atomically, and return its folder.

    Raises OSError with its `errno` (ENOSPC for a full disk), and then leaves nothing behind.
    """
    return write_checkpoint(run / "checkpoints" / f"{images_seen:012d}", images_seen, tensors, description)


def write_checkpoint(
    final: Path, images_seen: int, tensors: dict[str, Tensor], description: dict[str, Any]
) -> Path:
    """Write a checkpoint as the folder `final`, atomically. Raises OSError as `save_checkpoint` does."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        _write_tensors(temporary / TENSORS, tensors)
        checksum = sha256_of(temporary / TENSORS)
        body = {"format": FORMAT, "images": images_seen, **description, "sha256": checksum}
        _write_synced(temporary / DESCRIPTION, json.dumps(sealed("checkpoint", body), indent=1))
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description of the checkpoint in `folder`, both verified by checksum.

    Raises DamagedCheckpoint where either is missing or damaged, NewerCheckpoint for a newer format.
    """
    body = load_description(folder)
    try:
        if not (folder / TENSORS).is_file():
            raise DamagedCheckpoint(f"{TENSORS} is missing")
        if sha256_of(folder / TENSORS) != body["sha256"]:
            raise DamagedCheckpoint(f"{TENSORS} does not match its checksum")
        return _read_tensors(folder / TENSORS), body
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        # KeyError and AttributeError: a sound header may name a dtype that this version of torch lacks.
        raise DamagedCheckpoint(f"{TENSORS} cannot be read ({_clause(error)})") from error


def load_description(folder: Path) -> dict[str, Any]:
    """The contents of `checkpoint.json`, with fields and types checked, but without building the recipe.

    Raises DamagedCheckpoint where it is missing or damaged, NewerCheckpoint for a newer format.
    """
    return {"rollbacks": 0, **_read_body(folder, DESCRIPTION, "checkpoint")}


def _read_body(folder: Path, file: str, key: str) -> dict[str, Any]:
    """The description of a checkpoint or an export, its fields checked. Raises as `load_description` does."""
    try:
        body = read_sealed(folder / file, key)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{file} is missing") from error
    except BrokenSeal as error:
        raise DamagedCheckpoint(f"{file} does not match its checksum") from error
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{file} cannot be read ({_clause(error)})") from error
    if not isinstance(body, dict) or not whole_number(1, MOST_FORMAT)(body.get("format")):
        raise DamagedCheckpoint(f"{file} lacks the field format, or has a wrong one")
    if body["format"] > FORMAT:
        by = f" {version}" if (version := written_by(body)) else ""
        raise NewerCheckpoint(
            f"{folder} was written by a newer vitgan{by} (format {body['format']}; this one knows {FORMAT}): "
            "upgrade with `pip install --upgrade vitgan`."
        )
    if (field := wrong_field(body)) is not None:
        raise DamagedCheckpoint(f"{file} lacks the field {field}, or has a wrong one")
    return body


def written_by(body: dict[str, Any]) -> str:
    """The version of vitgan that wrote a description; the empty string where it does not say."""
    environment = body.get("environment")
    version = environment.get("vitgan") if isinstance(environment, dict) else None
    return version if isinstance(version, str) else ""


def recipe_of(description: dict[str, Any]) -> RunRecipe:
    """The recipe that a checkpoint or an export was written with, converted to the present format.

    Raises UserError, which names the version of vitgan that wrote it, where it cannot be read.
    """
    try:
        return read_recipe(description["recipe"], description["format"])
    except UserError as error:
        by = written_by(description)
        raise UserError(f"{error} The recipe was written by vitgan {by}." if by else str(error)) from error


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of `run`, oldest first; folders whose name is not a number are left out."""
    return numbered(run / "checkpoints")


def numbered(folder: Path) -> list[Path]:
    """The folders in `folder` whose name is a number of images, in increasing order."""
    named = (path for path in folder.glob("[0-9]*") if path.name.isdecimal() and path.is_dir())
    return sorted(named, key=lambda path: int(path.name))


def load_newest(run: Path, tell: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and description of the newest checkpoint that can be read; None where `run` has none at all.

    Newer ones that are damaged, or of a newer format, are skipped, and `tell` gets a line about each. Raises
    UserError where none can be read.
    """
    passed_over: list[str] = []
    newer: NewerCheckpoint | None = None
    for folder in reversed(checkpoints(run)):
        try:
            whole = load_checkpoint(folder)
        except DamagedCheckpoint as damage:
            passed_over.append(f"Checkpoint {folder.name} is damaged ({damage}); using the one before it.")
        except NewerCheckpoint as error:
            newer = newer or error
            passed_over.append(f"{str(error).rstrip('.')}; using the one before it.")
        else:
            for line in passed_over:
                tell(line)
            return whole
    if newer is not None:
        raise newer
    if passed_over:
        raise UserError(f"Every checkpoint in {run / 'checkpoints'} is damaged: move it away to start again.")
    return None


def prune(run: Path, keep: int, *, newest: int, for_good: Callable[[int], bool] = lambda _: False) -> None:
    """Delete all but the last `keep` checkpoints up to `newest` images, and what interrupted writes left.

    Checkpoints for whose number of images `for_good` is true stay. Those beyond `newest` are not counted:
    they are damaged, as the run would have resumed from them otherwise, and would displace good ones.
    """
    whole = [folder for folder in checkpoints(run) if int(folder.name) <= newest]
    for folder in whole[:-keep]:
        if for_good(int(folder.name)):
            continue
        shutil.rmtree(folder, ignore_errors=True)
    for left in (run / "checkpoints").glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; safetensors itself opens none whose path is not UTF-8."""
    return load_file(path) if printable(str(path)) == str(path) else load(path.read_bytes())


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # it wraps what the system says, "… (os error 28)" for a full disk
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    _sync(path)


def _write_synced(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, nor a file synced for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clause(error: Exception) -> str:
    """The message of `error` on one line, cut to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
PART = "average"  # of a checkpoint's tensors
LEFT_OUT = ("blocks", "block_parts", "folder")  # of the facts on the images: for going on with a run


def is_exported(folder: Path) -> bool:
    """Whether `folder` has the files of an exported generator, be they sound or damaged."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).exists()


def write_exported(folder: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write the averaged generator of a checkpoint, by its tensors and description, to an existing folder."""
    own = {n.removeprefix(f"{PART}."): t.contiguous() for n, t in tensors.items() if n.startswith(f"{PART}.")}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(own, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors leaves it to the owner alone; an export is for others
        checksum = sha256_of(temporary)
    facts = {name: value for name, value in description["data"].items() if name not in LEFT_OUT}
    kept = {name: value for name, value in description.items() if name not in ("rollbacks", "format")}
    body = {"format": FORMAT, **kept, "data": facts, "sha256": checksum}
    whole = {"model_type": "vitgan", **sealed("generator", body)}
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def read_exported(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an exported generator, named as in a checkpoint, and its description.

    Weights that were exported in half precision are given in fp32.
    Raises DamagedCheckpoint where either is missing or damaged, NewerCheckpoint for a newer format.
    """
    body = read_config(folder)
    try:
        if sha256_of(folder / WEIGHTS) != body["sha256"]:
            raise DamagedCheckpoint(f"{WEIGHTS} does not match its checksum")
        tensors = _read_tensors(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise DamagedCheckpoint(f"{WEIGHTS} cannot be read") from error
    whole = {n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()}
    return {f"{PART}.{name}": tensor for name, tensor in whole.items()}, body


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of an export's `config.json`, with fields checked. Raises as `read_exported` does."""
    return _read_body(folder, CONFIG, "generator")


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The state from which a run goes on: that of a checkpoint, or the start."""

    found: bool
    """Whether a checkpoint was loaded."""
    images_seen: int = 0
    """Images seen at that checkpoint; 0 at the start."""
    seconds: float = 0.0
    """Seconds of training up to it."""
    rollbacks: int = 0
    """How often the run went back to a checkpoint after numbers that were not finite, each time with other
    random numbers."""
    notes: list[str] = field(default_factory=list)
    """Lines to show to the user about it."""


def restore(folder: Path, images: ImageSet, task: Task) -> Restored:
    """Load the newest sound checkpoint of `folder` into `task`; rank 0 reads it and broadcasts it.

    Raises UserError where the run was trained on other images, or the processes see different images.
    """
    notes: list[str] = []
    found = None
    with collectives.errors_shared():
        if collectives.rank() == 0:
            found = load_newest(folder, notes.append)
    tensors, description = found or (None, None)
    description = collectives.broadcast(description)
    with collectives.errors_shared():
        _check_alike(images)
        if description is not None:
            _check_data(folder, description["data"], images)
    if description is None:
        return Restored(found=False, notes=notes)
    task.load(collectives.broadcast_tensors(tensors))
    notes.append(f"Resuming {folder} at {description['images']:,} images.")
    return Restored(
        found=True,
        images_seen=description["images"],
        seconds=description["seconds"],
        rollbacks=description["rollbacks"],
        notes=notes,
    )


def number_as_before(run: Path, images: ImageSet) -> None:
    """Number the classes of `images` as the run in the folder `run` has them, if it has a checkpoint.

    A run that was written without the names of its classes has all that the source knows. All processes must
    call this; rank 0 reads.
    """
    found = None
    with collectives.errors_shared():
        if collectives.rank() == 0:
            found = next(_classes_of(run), None)
    found = collectives.broadcast(found)
    if found is not None:
        number_as_described(found, images)


def number_as_described(description: dict[str, Any], images: ImageSet) -> None:
    """Number the classes of `images` as a run has them whose description has these "classes"."""
    names = description.get("class_names", images.every_class)
    if len(names) == description["classes"]:
        images.number_classes(names)


def _classes_of(run: Path) -> Iterator[dict[str, Any]]:
    """What the checkpoints of `run` say of its classes, the newest first."""
    for folder in reversed(checkpoints(run)):
        with suppress(DamagedCheckpoint, NewerCheckpoint):
            body = load_description(folder)
            yield {name: body[name] for name in ("classes", "class_names") if name in body}


def data_facts(images: ImageSet) -> dict[str, Any]:
    """What a checkpoint records of the images, by which a resumed run recognises them.

    Of a relative path the folder that it is relative to is recorded, too.
    """
    facts = {"images": len(images), **images.identity.facts()}
    here = Path.cwd()
    return facts | ({"folder": str(here)} if relative_to(images.name, here) != images.name else {})


def trained_on(description: dict[str, Any], source: str) -> str:
    """The source of a run's images, `source` in its recipe, as it is found from the present working folder.

    A relative path is taken from the folder in which the run was trained, where it is still there. Raises
    UserError, with that folder, where it is neither there nor here.
    """
    folder, here = description["data"].get("folder"), Path.cwd()
    if relative_to(source, here) == source or folder == str(here):
        return source
    there = relative_to(source, Path(folder or here))
    if not source.startswith(("wds:", "hf:")) and not Path(there).exists() and not Path(source).exists():
        trained_in = folder or "the folder in which it was trained"
        raise UserError(
            f"The run was trained on {source}, relative to {trained_in}, and it is not there: pass its "
            "images by --data."
        )
    return there if folder and (source.startswith(("wds:", "hf:")) or Path(there).exists()) else source


def _check_alike(images: ImageSet) -> None:
    for rank, (fingerprint, count) in enumerate(
        collectives.all_gather_objects([images.fingerprint, len(images)])
    ):
        if fingerprint != images.fingerprint and collectives.rank() == 0:
            raise UserError(
                f"Rank {rank} sees other images than rank 0 ({count:,} against {len(images):,}): give every "
                "machine the same --data."
            )


def _check_data(folder: Path, then: dict[str, Any], images: ImageSet) -> None:
    # An earlier version found no labels in some sets, or others; to a run without labels they are nothing.
    earlier = "" if images.options.labels else images.identity.before
    if then["fingerprint"] not in (images.fingerprint, earlier):
        raise UserError(
            f"{folder} was trained on other images ({difference(then, images.identity, len(images))}): "
            "give the same --data, or begin another run with its weights, "
            f"--out ANOTHER --init-from {folder}."
        )
