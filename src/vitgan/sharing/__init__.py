"""Generators for others: exported folders with a model card, ONNX files, the Hugging Face Hub."""

from vitgan.sharing.export import export_folder
from vitgan.sharing.hub import find

__all__ = ["export_folder", "find"]
