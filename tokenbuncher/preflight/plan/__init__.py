"""What a release will take, from its spec alone: steps, tokens, time and memory of each stage.

    estimate = plan(spec, shape_of(spec), parse_device("h100"))
    print(estimate.table())

The counts are those of the code of the stages; the rates are constants of the device, stated there.
"""

from tokenbuncher.preflight.plan.device import Device, parse_device
from tokenbuncher.preflight.plan.estimate import Estimate, StageEstimate, plan
from tokenbuncher.preflight.plan.shape import Shape, shape_of
from tokenbuncher.preflight.plan.work import Judges

__all__ = ["Device", "Estimate", "Judges", "Shape", "StageEstimate", "parse_device", "plan", "shape_of"]
