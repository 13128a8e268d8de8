"""The default settings of a model, used where a call sets none: guidance, steps, cameras, words added to the prompt.

A model's folder carries these in model_index.json, so that the same call follows each model's own script.  Knows no
network; `weights` writes them, the pipeline reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from viewfold import limits
from viewfold.errors import InputError
from viewfold.model.presets import MVDREAM_SD15, MVDREAM_SD21, UNetLayout


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """How a model draws unless it is told otherwise."""

    guidance: float = 7.5
    """Scale of classifier-free guidance (Stable Diffusion's usual one)."""

    steps: int = 30
    """Denoising steps."""

    elevation_deg: float = 15.0
    """Height of the cameras above the horizon."""

    azimuth_deg: float = 0.0
    """Direction of the first camera."""

    suffix: str = ""
    """Words that follow the prompt; the unconditional text has none."""

    negative: str = ""
    """The unconditional text."""

    lift_views: int = 4
    """Views that a lift is fitted to, where it draws them itself."""

    lift_around: bool = True
    """Whether it draws four first and the others around them; otherwise all at once."""

    known_light: bool = False
    """Whether its views are lit as `scene.light.Light()` does, so that a lift can divide the light out."""

    watermark: bool = False
    """Whether pictures carry the invisible mark; on for models that draw what may pass for photographs."""

    def __post_init__(self) -> None:
        ranges = {"guidance": (0, 1e6), "steps": (1, 10_000), "elevation_deg": (-90, 90), "azimuth_deg": (-1e6, 1e6)}
        ranges["lift_views"] = (1, 64)
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is outside
                raise InputError(f"`{name}` must be a finite number between {low:g} and {high:g}; got {value!r}.")
        for name in ("suffix", "negative"):
            if len(getattr(self, name)) > limits.SETTING_CHARACTERS:
                raise InputError(f"`{name}` must have at most {limits.SETTING_CHARACTERS} characters; it has more.")

    def worded(self, prompt: str, suffix: str | None = None) -> str:
        """Return the prompt with the suffix (None: the model's own, "" none), which is not put there twice."""
        suffix = self.suffix if suffix is None else suffix
        return prompt if not suffix or prompt.rstrip().endswith(suffix.strip()) else prompt + suffix


TOYBOX = Defaults(guidance=2.0, steps=8, lift_views=16, known_light=True)
"""The shipped model: more guidance costs colours, more steps change nothing (docs/quality.md); it turns 16 views
plausibly, which released MVDream, trained at 4, is not known to; and all that it was trained on has one light."""

# bytedance/MVDream, commit 618f844.
T2I = Defaults(guidance=10.0, steps=50, elevation_deg=15.0, azimuth_deg=90.0, suffix=", 3d asset", watermark=True)
"""`scripts/t2i.py`: `step=50, scale=10` in its call, `--camera_elev 15`, `--camera_azim 90`, `--suffix`; always
appended.  The unconditional text is "" (`uc = model.get_learned_conditioning([""])`).  The mark is ours."""

GRADIO = Defaults(guidance=7.5, steps=25, elevation_deg=15.0, azimuth_deg=0.0, suffix=", 3d asset", watermark=True)
"""`scripts/gradio_app.py`: the values that its form starts with."""

PORT = Defaults(guidance=7.0, steps=50, elevation_deg=0.0, azimuth_deg=0.0, watermark=True)
"""ashawkey/mvdream_diffusers, commit 8b318ef: the defaults of `MVDreamPipeline.__call__`; its `run_mvdream.py` takes 5
and 30."""


def released_defaults(layout: UNetLayout) -> Defaults:
    """Return what the original script does with a network of this layout; the plain defaults for any other."""
    return T2I if layout in (MVDREAM_SD21, MVDREAM_SD15) else Defaults()
