"""From a float graph and samples to a graph on integer grids: place, observe, choose, annotate.

Each step is a function of its own, and repairs (`compress.repair`) stand between them: what changes float weights
(equalization) before `observe`, what changes numbers on grids (learned rounding, bias correction) before `annotate`.
"""

from edgec.compress.quantize.annotate import annotate
from edgec.compress.quantize.choose import OBSERVERS, Choice, choose_grids
from edgec.compress.quantize.flow import Quantized, Settings, quantize_graph
from edgec.compress.quantize.observe import Feeds, Observation, Samples, observe
from edgec.compress.quantize.place import Placement, is_quantized, place
from edgec.compress.quantize.policy import CPU, Policy
from edgec.compress.quantize.weight_only import quantize_weights

__all__ = ["CPU", "OBSERVERS", "Choice", "Feeds", "Observation", "Placement", "Policy",
           "Quantized", "Samples", "Settings", "annotate", "choose_grids", "is_quantized",
           "observe", "place", "quantize_graph", "quantize_weights"]
