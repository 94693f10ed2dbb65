"""From a float graph to an INT8 one: calibration set, observers, scales, Q/DQ placement, sensitivity, gate.

The order of a calibration: `CalibrationSet` (images exactly as in deployment) -> `observe` (one histogram
per tensor, constant memory) -> `Scales` (ranges bound to graph and data, saved as the cache) ->
`quantise` (explicit Q/DQ for a target) -> the accuracy gate. Nothing here imports torch.
"""

from __future__ import annotations

from edgedet.calib.observe import observe, quantisable
from edgedet.calib.qdq import PLACEMENTS, Placement, Quantised, quantise
from edgedet.calib.scales import Range, Scales, graph_hash

__all__ = [
    "PLACEMENTS",
    "Placement",
    "Quantised",
    "Range",
    "Scales",
    "graph_hash",
    "observe",
    "quantisable",
    "quantise",
]
