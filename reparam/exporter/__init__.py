"""Checkpoints as ONNX files that were checked before they got their name."""

from reparam.exporter.exporting import export, export_onnx
from reparam.exporter.report import Difference, ExportReport, Tensor

__all__ = ["Difference", "ExportReport", "Tensor", "export", "export_onnx"]
