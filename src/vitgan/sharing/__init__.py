"""Generators for others: exported folders with a card, ONNX, the Hugging Face Hub, and the package's own."""

from vitgan.sharing.export import export_folder
from vitgan.sharing.hub import find

__all__ = ["export_folder", "find"]
