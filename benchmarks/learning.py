"""How well recipes learn in equal seconds: train each alone on its cores, score it at several times, draw.

    python benchmarks/learning.py mnist --minutes 1 2 4 --seeds 0 1 2 --cores 0 1 --out runs/learning
    python benchmarks/learning.py cifar10-modern cifar10-small cifar10-stylegan2 --data cifar10_train.zip \
        --minutes 5 20 --seeds 0 1 2 --cores 1 --out runs/learning-cifar10
    python benchmarks/learning.py mnist --words "--loss logistic" --tag logistic --out runs/loss
    python benchmarks/learning.py --score runs/mnist [RUN ...] --out runs/scores

A run of more minutes is the run of fewer continued. Two judges that were trained apart score it: the
package's classifier (`vitgan evaluate --features classifier`), which holds a fifth of the images out, and a
network of another architecture that learned from every second image alone. For both: the Frechet distance of
their features times 100, on a scale on which the real images' features have a total variance of 1; the
class-probability score, and its share of the real images'; mean confidence; the smallest and largest share
of a class. `copies` is the share of samples that lie nearer to a training image, pixel by pixel, than 99% of
the training images lie to their own nearest one. `patch_energy` is the mean step of colour across the borders
of patches against that within them, divided by the same of the real images. `at_chance` is the share of
the log's lines in which the discriminator's loss is within 1% of that of a coin, for the logistic and the
relativistic loss, and `gap` the largest mean difference of its logits.

Every trial is a line of OUT/trials.jsonl; OUT/learning.png draws the score and the distance against minutes,
with the band of the seeds.
"""

import argparse
import dataclasses
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitgan
from vitgan.data import ImageSet, batches
from vitgan.engine.checkpoint import recipe_of
from vitgan.engine.environment import environment
from vitgan.engine.gan import Recipe
from vitgan.engine.loggers import read_log
from vitgan.engine.run_folder import read_run
from vitgan.metrics.classifier import ClassifierOptions, obtain
from vitgan.metrics.evaluator import RealImages
from vitgan.metrics.protocol import Cache

CHANCE = {"Logistic": math.log(4), "Relativistic": math.log(2)}  # the loss of a discriminator at chance
EPSILON = 1e-12


def main() -> None:
    """Train and score, or score alone; a line a trial on stdout."""
    parser = argparse.ArgumentParser(description="Compare what recipes learn in equal seconds.")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE")
    parser.add_argument("--minutes", nargs="+", type=float, default=[4.0], metavar="M")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="S")
    parser.add_argument("--cores", nargs="+", type=int, default=[0, 1], metavar="C")
    parser.add_argument("--data", metavar="SOURCE", help="in place of the recipes' own")
    parser.add_argument("--words", default="", metavar="TEXT", help="further words of `vitgan train`")
    parser.add_argument("--tag", default="", metavar="NAME", help="the trial's, beside its recipe's")
    parser.add_argument("--judges", metavar="SOURCE", help="labelled images for the judges (the data)")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="samples of a score (10,000)")
    parser.add_argument("--score", nargs="+", default=[], metavar="RUN", help="runs to score as they are")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for run in options.score:
        written(options, {"run": run} | scored(Path(run), options))
    for recipe in options.recipes:
        for seed in options.seeds:
            for minutes in sorted(options.minutes):
                written(options, trial(recipe, seed, minutes, options))
    if options.recipes:
        draw(options.out)


def written(options: argparse.Namespace, row: dict[str, Any]) -> None:
    """Append a trial to the log, and print what matters of it."""
    row |= {"command": shlex.join(["python", *sys.argv]), "machine": environment(torch.device("cpu"))}
    with (options.out / "trials.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    said = [f"{row.get('name', row['run'])}"]
    said += [f"seed {row['seed']}"] if "seed" in row else []
    if "seconds" in row:
        said.append(f"{row['images']:,} images in {row['seconds']:.0f} s")
    for judge, found in row.get("judges", {}).items():
        shares = f"{found['smallest_class']:.1%} to {found['largest_class']:.1%}"
        said.append(
            f"{judge}: distance {found['distance']:.1f}, score {found['score']:.2f} ({found['share']:.0%}), "
            f"confidence {found['confidence']:.2f}, classes {shares}"
        )
    rest = ("copies", "patch_energy", "at_chance", "gap", "failed")
    said += [f"{key} {row[key]}" for key in rest if key in row]
    print("; ".join(said), flush=True)


def trial(recipe: str, seed: int, minutes: float, options: argparse.Namespace) -> dict[str, Any]:
    """Train `recipe` on the cores up to `minutes`, where it was left off, and score it."""
    name = f"{recipe}-{options.tag}" if options.tag else recipe
    run = options.out / f"{name}-{seed}"
    words = ["train", recipe, "--seed", str(seed), "--minutes", f"{minutes:g}", "--out", str(run), "--quiet"]
    words += ["--training.threads", str(len(options.cores)), *shlex.split(options.words)]
    words += ["--data", options.data] if options.data else []
    cores = ",".join(map(str, options.cores))
    facts: dict[str, Any] = {"name": name, "run": str(run), "recipe": recipe, "words": options.words}
    facts |= {"seed": seed, "minutes": minutes, "cores": len(options.cores)}
    begun = time.monotonic()
    done = subprocess.run(
        ["taskset", "-c", cores, sys.executable, "-m", "vitgan", *words], capture_output=True, text=True
    )
    facts["wall_seconds"] = round(time.monotonic() - begun)
    if done.returncode:
        return facts | {"failed": done.stderr.strip()[-300:]}
    return facts | scored(run, options)


def scored(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a run as it is now."""
    _, description = read_run(run)
    recipe = recipe_of(description)
    assert isinstance(recipe, Recipe)
    images = recipe.data.build()
    real = torch.cat(list(RealImages(images, 0).batches()))
    samples = vitgan.load(run).sample(options.count, seed=0)
    judges = judged(samples, recipe, options.judges or recipe.data.source, options.out)
    log = [line for line in read_log(run) if line.get("term_adversarial") is not None]
    chance = CHANCE.get(type(recipe.loss).__name__)
    at_chance = [abs(line["term_adversarial"] / chance - 1) < 0.01 for line in log] if chance else []
    seen = {"images": description["images"], "gflop_an_image": round(gigaflops(recipe, images), 3)}
    if log:
        seen |= {"seconds": round(log[-1]["seconds"], 1), "gap": round(max(x["logit_gap"] for x in log), 2)}
        seen |= {"at_chance": round(sum(at_chance) / len(log), 3)} if chance else {}
    patch = getattr(recipe.generator, "patch", 4)
    energy = border_step(samples, patch) / border_step(real, patch)
    return seen | {
        "judges": judges,
        "copies": round(copies(samples[:2000], real), 4),
        "patch_energy": round(energy, 3),
    }


class Mixer(nn.Module):
    """The second judge: images uint8 (B, C, R, R) -> features (B, F), logits (B, K); depthwise mixing."""

    def __init__(self, channels: int, classes: int, width: int = 64, features: int = 128) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.GELU()
        )
        self.spatial = nn.ModuleList(_mixing(width, 5, groups=width) for _ in range(4))
        self.pointwise = nn.ModuleList(_mixing(width, 1) for _ in range(4))
        self.hidden = nn.Sequential(
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * width, features, bias=False),
            nn.BatchNorm1d(features),
            nn.GELU(),
        )
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last))
        for spatial, pointwise in zip(self.spatial, self.pointwise, strict=True):
            x = pointwise(x + spatial(x))
        features = self.hidden(x)
        return features, self.head(features)


def _mixing(width: int, kernel: int, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.GELU())


def judged(samples: Tensor, recipe: Recipe, source: str, folder: Path) -> dict[str, Any]:
    """What both judges say of samples uint8 (N, C, R, R), by judge."""
    images = dataclasses.replace(recipe.data, source=source, labels=True, flip=False).build()
    assert images.labels is not None
    every = RealImages(images, 0)
    pixels, labels = torch.cat(list(every.batches())), every.labels()
    classes = len(images.classes)
    first = obtain(
        pixels,
        labels,
        classes=classes,
        pixels_sha=every.sha,
        options=ClassifierOptions(),
        cache=Cache(folder),
        device=torch.device("cpu"),
        quiet=True,
    ).classifier
    second = second_judge(pixels, labels, classes, folder / f"judge-{every.sha[:12]}.pt")
    return {name: figures(judge, samples, pixels) for name, judge in (("package", first), ("mixer", second))}


def second_judge(pixels: Tensor, labels: Tensor, classes: int, path: Path) -> Mixer:
    """The mixer, trained on every second image by turns of 128, or read from `path`."""
    torch.manual_seed(1)
    judge = Mixer(pixels.shape[1], classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if path.exists():
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    own, own_labels = pixels[::2], labels[::2]
    steps = max(200, min(20 * len(own), 300_000) // 128)
    optimiser = torch.optim.AdamW(judge.parameters(), 0.004, weight_decay=0.05)
    shift = max(1, pixels.shape[-1] // 8)
    for step in range(steps):
        done = (step + 0.5) / steps
        optimiser.param_groups[0]["lr"] = 0.004 * min(done / 0.15, (1 - done) / 0.85)
        chosen = torch.randint(len(own), (min(128, len(own)),))
        down, right = torch.randint(-shift, shift + 1, (2,)).tolist()
        batch = F.pad(own[chosen].float(), (shift,) * 4, mode="replicate")
        batch = batch.roll((down, right), (2, 3))[..., shift:-shift, shift:-shift]
        loss = F.cross_entropy(judge(batch)[1], own_labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(judge.state_dict(), path)
    judge.eval()
    with torch.no_grad():
        right_ones = sum(
            int((judge(part)[1].argmax(1) == truth).sum())
            for part, truth in zip(pixels[1::2].split(500), labels[1::2].split(500), strict=True)
        )
    print(f"second judge: {right_ones / len(pixels[1::2]):.1%} of the images it has not seen", flush=True)
    return judge


@torch.no_grad()
def figures(judge: nn.Module, samples: Tensor, real: Tensor) -> dict[str, float]:
    """One judge's figures of samples against all real images."""
    features, p = outputs(judge, samples)
    real_features, real_p = outputs(judge, real)
    scale = real_features.var(0).sum()
    shares = p.argmax(1).bincount(minlength=p.shape[1]) / len(p)
    score, real_score = class_score(p), class_score(real_p)
    return {
        "distance": round(100 * frechet(features, real_features) / scale.item(), 2),
        "score": round(score, 3),
        "share": round(score / real_score, 4),
        "confidence": round(p.max(1).values.mean().item(), 4),
        "smallest_class": round(shares.min().item(), 4),
        "largest_class": round(shares.max().item(), 4),
    }


def outputs(judge: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, F) and class probabilities (N, K), in fp64."""
    parts = [judge(part) for part in images.split(500)]
    features, logits = (torch.cat(own).double() for own in zip(*parts, strict=True))
    return features, logits.softmax(1)


def class_score(p: Tensor) -> float:
    """exp E KL(p(y|x) || p(y)) of class probabilities (N, K)."""
    log = p.clamp_min(EPSILON).log()
    return (p * (log - p.mean(0).clamp_min(EPSILON).log())).sum(1).mean().exp().item()


def frechet(a: Tensor, b: Tensor) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) of features (N, F) with covariances A and B."""
    of_a, of_b = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(of_a @ of_b).real.clamp_min(0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + of_a.trace() + of_b.trace() - 2 * root).item()


def copies(samples: Tensor, real: Tensor) -> float:
    """The share of samples nearer to a real image than 99% of the real images are to their own nearest."""
    rows = real.flatten(1).float()
    chosen = rows[:: max(1, len(rows) // 2000)][:2000]
    own = torch.cat([torch.cdist(part, rows).kthvalue(2, dim=1).values for part in chosen.split(250)])
    near = torch.cat(
        [torch.cdist(part, rows).min(1).values for part in samples.flatten(1).float().split(250)]
    )
    return (near < own.quantile(0.01)).float().mean().item()


def border_step(images: Tensor, patch: int) -> float:
    """The mean step of colour between columns at the borders of patches, over that within patches."""
    steps = images.float().diff(dim=-1).abs().mean((0, 1, 2))  # (R - 1,)
    border = torch.arange(1, len(steps) + 1) % patch == 0
    return (steps[border].mean() / steps[~border].mean()).item()


def gigaflops(recipe: Recipe, images: ImageSet) -> float:
    """Matrix products of a step by torch's counter, 10^9 FLOPs an image of its batch."""
    from torch.utils.flop_counter import FlopCounterMode

    task, _ = recipe.begin(images, torch.device("cpu"))
    batch = next(batches(images, batch=recipe.training.batch, seed=0, images_seen=0, device="cpu"))
    with FlopCounterMode(display=False) as counter:
        task.step(batch, 0)
    return counter.get_total_flops() / recipe.training.batch / 1e9


def draw(folder: Path) -> None:
    """OUT/learning.png from all lines of the log."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    rows = [row for row in lines if "judges" in row and "minutes" in row]
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, key in zip(axes, ("share", "distance"), strict=True):
        for judge, style in (("package", "-"), ("mixer", "--")):
            for number, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
                by_time: dict[float, list[float]] = {}
                for row in rows:
                    if row["name"] == name:
                        by_time.setdefault(row["minutes"], []).append(row["judges"][judge][key])
                times = sorted(by_time)
                mean = [sum(by_time[t]) / len(by_time[t]) for t in times]
                colour = f"C{number}"
                axis.plot(times, mean, style, color=colour, marker=".", label=f"{name}, {judge}")
                low, high = ([end(by_time[t]) for t in times] for end in (min, max))
                axis.fill_between(times, low, high, color=colour, alpha=0.15)
        axis.set_xlabel("minutes of training")
        axis.set_ylabel(
            {"share": "class score, share of the real images'", "distance": "distance x 100"}[key]
        )
    axes[0].legend(fontsize=7)
    figure.savefig(folder / "learning.png", dpi=120)


if __name__ == "__main__":
    main()
