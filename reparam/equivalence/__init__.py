"""Whether two models are the same function: probes, derived bounds, stages, the report."""

from reparam.equivalence.probes import Probing
from reparam.equivalence.records import BlockResult, ProbeResult, Stage, Verification
from reparam.equivalence.verification import verify

__all__ = ["BlockResult", "ProbeResult", "Probing", "Stage", "Verification", "verify"]
