"""Seconds of a training step on N processes: compute plus communication, from counts and data sheets.

Gradients go round a ring of all processes twice, 2 (N - 1) / N of their bytes through each link; nothing
overlaps with the compute, as in `vitgan.distributed.collectives.average_gradients_`. The clock goes round by
gloo, whose seconds a hop are measured. A model and no measurement: docs/scale.md lists what it assumes.
Used by communication.py.
"""

from typing import Any

import vitgan
from vitgan.bench.flops import performed_flops
from vitgan.engine.gan import Recipe

RANKS = (2, 8, 16, 64)
EACH = (1, 4, 16)  # batches of the recipe for each process

# One H200, bf16 (results/cifar10-h200.json, docs/performance.md): FLOPs performed a second of `cifar10` at
# batch 512, and seconds of a step at batch 128 by one process, whose step is a CUDA graph.
ACHIEVED = 184e12
GRAPH_STEP = {"cifar10": 12.46e-3}
# Several processes have no graph (engine/graphs.py); their step was not timed on a GPU. Assumed: it takes at
# least what a step of `cifar10` took without graph and compiler (docs/performance.md, the first line), most
# of it Python and torch starting kernels; other recipes in proportion to their counted operations.
UNGRAPHED_STEP = 64.1e-3
CPU_RATE = 10.24  # images/s of `cifar10` in fp32 on 2 cores, results/cifar10-cpu.json

# Bytes/s one way, and seconds of a hop. Data sheets: NVLink 4 900 GB/s both ways together, PCIe 4.0 x16 32
# GB/s, of which 25 are assumed to arrive, NDR 400 Gbit/s; between machines one port of each, which the ring
# crosses once. Hops: tuning table of NCCL 2.20 (src/graph/tuning.cc, ring, simple); of TCP assumed.
LINKS = {
    "NVLink": (450e9, 3.4e-6),
    "PCIe 4": (25e9, 5.7e-6),
    "InfiniBand NDR": (50e9, 14.0e-6),
    "25 GbE": (3.125e9, 50e-6),
    "10 GbE": (1.25e9, 50e-6),
}
STARTING = 8.4e-6  # seconds before a collective's first hop, of NCCL's table
ON_A_MACHINE = 8  # GPUs


def assumptions(gloo_hop: float) -> dict[str, Any]:
    """The constants, and the measured seconds of a hop of gloo."""
    return {
        "gpu_achieved_flops": ACHIEVED,
        "gpu_ungraphed_step_seconds_of_cifar10": UNGRAPHED_STEP,
        "gpu_graph_step_seconds": GRAPH_STEP,
        "cpu_images_per_second_of_cifar10": CPU_RATE,
        "links_bytes_per_second_and_hop_seconds": LINKS,
        "collective_starting_seconds": STARTING,
        "gpus_on_a_machine": ON_A_MACHINE,
        "gloo_hop_seconds": gloo_hop,
    }


def model(name: str, all_counted: dict[str, Any], gloo_hop: float) -> list[dict[str, Any]]:
    """A line for each machine, number of processes and link; seconds of a step of the recipe `name`.

    Speeds are images/s over those of one process: for the recipe's batch shared by all, and for so many
    batches on each, over one process with as many.
    """
    recipe: Recipe = vitgan.recipes.get(name)
    work, counted = recipe.training.batch * performed_flops(recipe), all_counted[name]
    operations = {one: all_counted[one]["operations_per_step"] for one in (name, "cifar10")}
    launching = UNGRAPHED_STEP * operations[name] / operations["cifar10"]
    cpu = CPU_RATE * performed_flops(vitgan.recipes.get("cifar10"))
    found = []
    for machine, rate, floor, on_one in (
        ("H200", ACHIEVED, launching, ON_A_MACHINE),
        ("2 CPU cores", cpu, 0.0, 1),
    ):
        for ranks, link in ((ranks, link) for ranks in RANKS for link in LINKS):
            machines = -(-ranks // on_one)
            if (machines == 1) != (link in ("NVLink", "PCIe 4")):
                continue
            gradients, clock = sending(counted, ranks, machines, link), 2 * (ranks - 1) * gloo_hop
            alone = work / rate if floor == 0 else GRAPH_STEP.get(name, work / rate)
            shared = max(work / rate / ranks, floor)
            line = {"recipe": name, "machine": machine, "processes": ranks, "link": link}
            line |= {"compute_alone": alone, "compute": shared, "gradients": gradients, "clock": clock}
            line["speed_same_batch"] = alone / (shared + gradients + clock)
            for each in EACH:
                own = alone if each == 1 else each * work / rate
                step = max(each * work / rate, floor) + gradients + clock
                line[f"speed_{each}_each"] = ranks * own / step
            found.append(line)
    return found


def sending(counted: dict[str, Any], ranks: int, machines: int, link: str) -> float:
    """Seconds of a step for the gradients."""
    bandwidth, hop = LINKS[link]
    between = 0 if machines == 1 else min(2 * machines, 2 * (ranks - 1))  # as NCCL counts them
    within = 2 * (ranks - 1) - between
    inner = hop if machines == 1 else LINKS["NVLink"][1]
    sent = counted["by_function"]["average_"]
    waits = sent["messages"] * (STARTING + within * inner + between * hop)
    return 2 * (ranks - 1) / ranks * sent["bytes"] / bandwidth + waits


def summary(line: dict[str, Any]) -> str:
    """Of a line, for the eye."""
    ms = {name: 1e3 * line[name] for name in ("compute", "gradients", "clock")}
    speeds = ", ".join(f"{each} each {line[f'speed_{each}_each']:.1f}" for each in EACH)
    return (
        f"{line['recipe']:8} {line['machine']:11} x {line['processes']:<3} {line['link']:15} compute "
        f"{ms['compute']:8.2f} ms, gradients {ms['gradients']:7.2f}, clock {ms['clock']:5.2f}; times as fast "
        f"with the same batch {line['speed_same_batch']:.2f}, batches {speeds}"
    )
