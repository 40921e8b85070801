"""Training configurations of PaddleDetection and PaddleClas, read as data."""

from reparam.configuration.checking import check_configuration, check_name
from reparam.configuration.reading import read_yaml
from reparam.configuration.records import Configuration
from reparam.configuration.training import configuration_of, read_configuration

__all__ = [
    "Configuration",
    "check_configuration",
    "check_name",
    "configuration_of",
    "read_configuration",
    "read_yaml",
]
