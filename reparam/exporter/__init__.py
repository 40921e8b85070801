"""Checkpoints as ONNX files that were checked before they got their name."""

from reparam.exporter.exporting import export, export_network, export_onnx
from reparam.exporter.networks import Network, network_of
from reparam.exporter.options import Options
from reparam.exporter.report import Difference, ExportReport, Float16, PaddleFiles, Tensor

__all__ = [
    "Difference",
    "ExportReport",
    "Float16",
    "Network",
    "Options",
    "PaddleFiles",
    "Tensor",
    "export",
    "export_network",
    "export_onnx",
    "network_of",
]
