"""Tables of systems that are trained and measured alike, beside the figures that the seminar deck prints."""

from vitgan.tables.plan import Request
from vitgan.tables.run import Reproduction, reproduce

__all__ = ["Reproduction", "Request", "reproduce"]
