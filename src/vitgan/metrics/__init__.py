"""Generated images against real ones: features, what torch-fidelity computes of them, and the protocol."""

from vitgan.metrics.evaluator import Evaluator
from vitgan.metrics.protocol import METRICS, Evaluation, Protocol, headline
from vitgan.metrics.statistics import Metric

__all__ = ["METRICS", "Evaluation", "Evaluator", "Metric", "Protocol", "headline"]
