"""`vitgan export`: write a run's generator as a folder, an ONNX file or a program of torch.export."""

import argparse
from pathlib import Path

from vitgan.terminal import add_output, answer

SUMMARY = "write a run's generator as a folder with a model card, or as an ONNX or torch.export file"
EXAMPLES = """examples:
  vitgan export runs/digits --out digits         weights and a model card
  vitgan export runs/digits --format onnx --out digits.onnx
  vitgan export runs/digits --format pt2 --out digits.pt2
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run, a checkpoint or an exported folder, `mnist`, `digits`, or an id of the Hub",
    )
    parser.add_argument(
        "--format",
        choices=("safetensors", "onnx", "pt2"),
        default="safetensors",
        help="safetensors: a folder that `vitgan.load` takes; onnx, pt2: z to images, any batch, without "
        "vitgan (safetensors)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="a new folder, or a file")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="of the weights, for the card, as cc-by-4.0 (an export's own, or other)",
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="JSON",
        help="scores for the card, of `vitgan evaluate --json` (the run's own)",
    )
    parser.add_argument("--average", type=float, metavar="L", help="one of the run's ema.lengths")
    parser.add_argument("--half", action="store_true", help="safetensors in half precision")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    """Write the export and say what it is; returns the exit code 0. Raises UserError on a user's mistake."""
    from vitgan.engine.run_folder import read_generator
    from vitgan.sharing import export_folder, find

    if options.format == "safetensors":
        export_folder(
            options.run,
            options.out,
            license_id=options.license,
            evaluation=options.evaluation,
            average=options.average,
            half=options.half,
        )
        text = f'Wrote {options.out}: vitgan.load("{options.out}") loads it.'
        answer(options, {"run": options.run, "out": options.out, "format": options.format}, text)
        return 0
    from vitgan.sharing.onnx import OPSET, export_onnx, export_program

    generator, description = read_generator(find(options.run), options.average)
    facts = {"recipe": description["recipe"]["name"], "images_seen": str(description["images"])}
    onnx = options.format == "onnx"
    found = (export_onnx if onnx else export_program)(generator, options.out, facts)
    inputs = f"z (B, {generator.latent_dim})" + (", labels (B,)" if generator.classes else "")
    said = {"run": options.run, "out": options.out, "format": options.format}
    said |= {"opset": OPSET} if onnx else {}
    what = f"opset {OPSET}, " if onnx else f'torch.export.load("{options.out}").module() takes '
    by = "onnxruntime" if onnx else "The program"
    answer(
        options,
        said | {"latent_dim": generator.latent_dim, "classes": generator.classes, "difference": found},
        f"Wrote {options.out}: {what}{inputs} to images in [-1, 1], any B.\n"
        f"{by} and torch differ by {found:.1e} at most.",
    )
    return 0
