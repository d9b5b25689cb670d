"""The measurements as text."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from vitgan.bench import PARTS
from vitgan.bench.run import DEFINITIONS
from vitgan.terminal import text_table

Rows = list[tuple[str, ...]]
Part = Any  # of the report, as JSON has it


def table(report: dict[str, Any]) -> str:
    """The report that `bench` returns, as text: a paragraph for each part that was measured."""
    sections = [_settings(report)]
    for part in PARTS:
        if report.get(part) is not None:
            sections.append(f"{part}\n" + aligned(SECTIONS[part](report[part])) + _note(part, report))
    return "\n\n".join(sections)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns two spaces apart, indented; the first is to the left, the others to the right."""
    return textwrap.indent(text_table(rows, numbers=True), "  ")


def _settings(report: dict[str, Any]) -> str:
    settings, environment = report["settings"], report["environment"]
    machine = environment.get("gpu", environment["processor"])
    return (
        f"{settings['recipe']}, batch {settings['batch']}, {settings['data']}; {settings['device']}: "
        f"{machine}, {settings['threads']} threads, torch {environment['torch']}"
    )


def _startup(found: Part) -> Rows:
    rows: Rows = [(name, _ms(time["median"])) for name, time in found["seconds"].items()]
    loaded = [name for name, is_loaded in found["imported"].items() if is_loaded]
    return [*rows, ("heavy modules that it imports", ", ".join(loaded) or "none")]


def _peak(found: Part) -> Rows:
    rows: Rows = [("GFLOP/s", *found)]
    for route in next(iter(found.values()))["routes"]:
        rows.append((route, *(f"{peak['routes'][route]:,.1f}" for peak in found.values())))
    return [*rows, ("peak", *(f"{peak['gflops']:,.1f}" for peak in found.values()))]


def _flops(found: Part) -> Rows:
    method = found["method_per_image"]
    rows: Rows = [("of the method, GFLOP an image", "-" if method is None else f"{method / 1e9:.4g}")]
    performed = f"{found['performed_per_image'] / 1e9:.4g}"
    return [*rows, (f"performed, GFLOP an image (by {found['performed_by']})", performed)]


def _step(found: Part) -> Rows:
    steps = list(found.values())
    rows: Rows = [("", *found)]
    rows.append(("images/s", *(f"{step['images_per_second']:.4g}" for step in steps)))
    for name in ("median", "minimum", "maximum"):
        rows.append((f"step, {name}", *(_ms(step["seconds"][name]) for step in steps)))
    rows.append(("first step", *(_ms(step["first_seconds"]) for step in steps)))
    rows.append(("peak, GFLOP/s", *(f"{step['peak']['gflops']:,.1f}" for step in steps)))
    for name in ("mfu", "hfu"):
        rows.append((name.upper(), *(_percent(step[name]) for step in steps)))
    parts = steps[0]["shares"]
    for part in sorted(parts, key=lambda name: -parts[name]):
        rows.append((f"- {part}", *(_percent(step["shares"].get(part)) for step in steps)))
    return rows


def _isn(found: Part) -> Rows:
    rows: Rows = [(f"{name} weights", _ms(found[name]["median"])) for name in ("normalised", "scaled")]
    rows.append(("difference", f"{found['milliseconds']:.4g} ms"))
    return rows + [(f"share of the step, {name}", _percent(share)) for name, share in found["share"].items()]


def _attention(found: Part) -> Rows:
    routes = list(found[0]["milliseconds"])
    rows: Rows = [("forward and backward, ms", *routes, "l2 / fastest", "error of l2")]
    for row in found:
        times = [f"{row['milliseconds'][route]:.4g}" for route in routes]
        error = max(row["errors"]["l2"].values())
        name = f"{row['tokens']} tokens, batch {row['batch']}, {row['precision']}"
        rows.append((name, *times, f"{row['l2_over_fastest_dot_product']:.3f}", f"{error:.1e}"))
    return rows


def _sampling(found: Part) -> Rows:
    return [
        (f"batch {row['batch']}, {row['precision']}", f"{row['images_per_second']:.4g} images/s")
        for row in found
    ]


def _memory(found: Part) -> Rows:
    rows: Rows = [("MiB", "peak", "before")]
    for precision, kinds in found.items():
        if precision != "measure":
            for kind, one in kinds.items():
                rows.append((f"{precision}, {kind}", _mib(one["peak_mib"]), _mib(one["before_mib"])))
    return rows


SECTIONS: dict[str, Callable[[Part], Rows]] = {
    "startup": _startup,
    "peak": _peak,
    "flops": _flops,
    "step": _step,
    "isn": _isn,
    "attention": _attention,
    "sampling": _sampling,
    "memory": _memory,
}


def _note(part: str, report: dict[str, Any]) -> str:
    """What the numbers of a part mean."""
    if part == "step":
        return "".join(
            f"\n  {name.upper() if len(name) == 3 else name}: {t}" for name, t in DEFINITIONS.items()
        )
    if part == "memory":
        return f"\n  {report[part]['measure']}"
    return ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.4g} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _mib(size: float | None) -> str:
    return "-" if size is None else f"{size:,.0f}"
