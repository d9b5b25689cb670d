"""Faults, each injected into real runs: see `benchmarks/reliability.py`."""
