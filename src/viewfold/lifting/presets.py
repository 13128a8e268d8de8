"""Named settings of a lift.  Where a number comes from is said beside it, or at the field that has it by default.

What each costs and reaches: `benchmarks/lift.py` and `benchmarks/lift_quality.py`.
"""

from __future__ import annotations

from dataclasses import replace

from viewfold.diffusion.schedule import Anneal, NoiseRange
from viewfold.lifting.stages import LiftSettings
from viewfold.lifting.survey import Survey

STANDARD = LiftSettings()
"""As many views as the model turns plausibly, fitted; the mesh refined; no distillation.  The default of `lift`."""

DRAFT = replace(STANDARD, survey=Survey(most=8))
"""Eight views at most, fitted, and no more."""

HIGH = replace(STANDARD, distil=replace(STANDARD.distil, steps=60))
"""The same as standard, and distilled on top: sides that no view shows become what the prior believes of them."""

MVDREAM_NOISE = NoiseRange(low=Anneal(start=0.98, end=0.02, steps=8000), high=Anneal(start=0.98, end=0.50, steps=8000))
"""MVDream's noise levels, from a blob and over 10,000 steps (MVDream-threestudio, mvdream-sd21.yaml); too high for a
start from a fit.  `DistilSettings(noise_at_start=(0.98, 0.98), noise_at_end=(0.02, 0.50), anneal_steps=8000)`."""
