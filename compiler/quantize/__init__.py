"""Quantized linear layers: schemes, rounding, storage, plain PyTorch modules, a scheme for each layer by budget."""

from .door import quantize
from .files import load, save
from .linear import QuantLinear
from .names import SCHEMES, name_scheme, parse_scheme
from .report import compute_reference, measure
from .schemes import NF4, Float8, Int, Micro, Mixed, Planes, Scheme, Table, Ternary

__all__ = [
    "NF4",
    "SCHEMES",
    "Float8",
    "Int",
    "Micro",
    "Mixed",
    "Planes",
    "QuantLinear",
    "Scheme",
    "Table",
    "Ternary",
    "compute_reference",
    "load",
    "measure",
    "name_scheme",
    "parse_scheme",
    "quantize",
    "save",
]
