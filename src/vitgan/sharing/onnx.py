"""Export a generator as an ONNX file or a program of torch.export, and compare what each computes with torch.

Shapes: B batch, Z latent size, C channels, R resolution.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitgan.errors import UserError
from vitgan.io import replacing
from vitgan.models import Generator
from vitgan.terminal import printable

OPSET = 20
MOST_DIFFERENCE = 1e-4  # between the images of torch and onnxruntime, which lie in [-1, 1]
MOST_BATCH = 2**16


class _Whole(nn.Module):
    """The generator with z and labels as its only arguments, which torch.export asks for."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator(z, labels)


def exported_program(generator: Generator) -> torch.export.ExportedProgram:
    """The generator as torch.export's graph, in eval mode, for any batch from 1 to 65,536."""
    generator = _frozen(generator)
    count = torch.export.Dim("batch", min=1, max=MOST_BATCH)
    inputs: tuple[Tensor, ...] = (generator.latents(3, seed=0),)
    shapes: dict[str, Any] = {"z": {0: count}}
    if generator.classes:
        inputs, shapes = (*inputs, torch.arange(3) % generator.classes), {**shapes, "labels": {0: count}}
    return torch.export.export(_Whole(generator), inputs, dynamic_shapes=shapes)


def _frozen(generator: Generator) -> Generator:
    """A copy in eval mode without gradients.

    torch's exporter fails on the attention of TransGAN where a weight requires a gradient.
    """
    return copy.deepcopy(generator).eval().requires_grad_(False)


def export_program(generator: Generator, out: Path, facts: dict[str, str]) -> float:
    """Write a generator as the file `out` of torch.export, with `facts` as its extra file `facts.json`.

    `torch.export.load(out).module()` needs no vitgan: it takes z (B, Z) and, with classes, labels (B,), and
    returns images (B, C, R, R) in [-1, 1], for any B. Returns the largest absolute difference between its
    images and the generator's. Raises UserError, and writes nothing, where that is above 1e-4.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder: give a file with --out, as generator.pt2.")
    written = io.BytesIO()
    with _quiet():
        torch.export.save(exported_program(generator), written, extra_files={"facts.json": json.dumps(facts)})
        written.seek(0)
        module = torch.export.load(written).module()
    found = _difference(_frozen(generator), lambda inputs: module(*inputs.values()))
    _check_difference(found, "The program")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_bytes(written.getbuffer())
    return found


def export_onnx(generator: Generator, out: Path, facts: dict[str, str]) -> float:
    """Write a generator as the ONNX file `out`, with `facts` and the opset in its metadata.

    Inputs are z (B, Z) and, with classes, labels (B,); the output is images (B, C, R, R) in [-1, 1], for
    any B. Returns the largest absolute difference between onnxruntime's images and torch's. Raises UserError,
    and writes nothing, where a library is missing or the difference is above 1e-4.
    """
    onnx, runtime = _libraries()
    if out.is_dir():
        raise UserError(f"{out} is a folder: give a file with --out, as generator.onnx.")
    generator = _frozen(generator)
    names = ("z", "labels") if generator.classes else ("z",)
    with _quiet():
        program = torch.onnx.export(
            exported_program(generator),
            dynamo=True,
            opset_version=OPSET,
            output_names=["images"],
            dynamic_shapes={name: {0: "batch"} for name in names},  # is dynamic already: this names it
            verbose=False,
        )
    assert program is not None
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        with _quiet():
            program.save(temporary)
        model = onnx.load(temporary)
        onnx.helper.set_model_props(model, {"opset": str(OPSET), **facts})
        onnx.save(model, temporary)
        found = difference(generator, temporary, runtime)
        _check_difference(found, "onnxruntime")
    return found


def _check_difference(found: float, whose: str) -> None:
    if not found <= MOST_DIFFERENCE:
        raise UserError(
            f"{whose}'s images differ from torch's by {found:.1e}, more than {MOST_DIFFERENCE:.0e}: "
            "nothing was written. Export to safetensors instead."
        )


def difference(generator: Generator, file: Path, runtime: Any) -> float:
    """The largest absolute difference between the images of an ONNX file and torch's, of batches of 1 and 7.

    `runtime` is the module onnxruntime.
    """
    # onnxruntime opens no path that is not UTF-8.
    model = str(file) if printable(str(file)) == str(file) else file.read_bytes()
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def compute(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {name: one.numpy() for name, one in inputs.items()})[0])

    return _difference(generator, compute)


def _difference(generator: Generator, compute: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """The largest absolute difference between the images that `compute` makes and the generator's."""
    largest = 0.0
    for count in (1, 7):
        inputs = {"z": generator.latents(count, seed=count)}
        if generator.classes:
            inputs["labels"] = torch.arange(count) % generator.classes
        with torch.no_grad():
            found = compute(inputs) - generator(inputs["z"], inputs.get("labels"))
        largest = max(largest, found.abs().max().item())
    return largest


def _libraries() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime. Raises UserError where one that the export needs is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError('ONNX needs libraries that are not there: pip install "vitgan[export]".') from error
    return onnx, onnxruntime


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without the output, warnings and log records of torch's exporter."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
