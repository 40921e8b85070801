"""Checkpoints as ONNX files that were checked before they got their name."""

from reparam.exporter.exporting import Options, export, export_network, export_onnx
from reparam.exporter.networks import Network, network_of
from reparam.exporter.report import Difference, ExportReport, Tensor

__all__ = [
    "Difference",
    "ExportReport",
    "Network",
    "Options",
    "Tensor",
    "export",
    "export_network",
    "export_onnx",
    "network_of",
]
