"""How fast the training step is on this machine, and what its parts cost: `vitgan bench`.

`vitgan.bench.run.bench(settings)` measures; importing this package imports no torch.
"""

# In the order in which they are measured: memory's processes come before this one keeps what a step takes.
PARTS = ("startup", "memory", "peak", "flops", "step", "isn", "attention", "sampling")
