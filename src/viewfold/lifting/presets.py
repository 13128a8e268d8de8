"""Named settings of a lift.  Where a number comes from is said beside it, or at the field that has it by default.

What each costs: `benchmarks/speed.py`; what it reaches: `benchmarks/lift_quality.py`.
"""

from __future__ import annotations

from dataclasses import replace

from viewfold.diffusion.schedule import Anneal, NoiseRange
from viewfold.lifting.backdrop import Backdrop
from viewfold.lifting.descent import OptimizerSettings
from viewfold.lifting.phase import Phase
from viewfold.lifting.polish import PolishSettings
from viewfold.lifting.regularizer import Regularizer
from viewfold.lifting.score import Reconstruction
from viewfold.lifting.settings import DistilSettings
from viewfold.lifting.shading import Shading
from viewfold.lifting.stages import LiftSettings
from viewfold.lifting.start import FromBlob
from viewfold.lifting.survey import Survey
from viewfold.lifting.viewpoint import DrawnLens
from viewfold.scene.gaussians import GaussianSettings
from viewfold.scene.grid import GridSettings
from viewfold.scene.hashfield import RELEASED, HashGridSettings
from viewfold.scene.meshform import MeshFormSettings
from viewfold.scene.sdf import SdfSettings

STANDARD = LiftSettings()
"""As many views as the model turns plausibly, fitted; the mesh refined; no distillation.  The default of `lift`."""

DRAFT = replace(STANDARD, survey=Survey(most=8), polish=PolishSettings(steps=0))
"""Eight views at most, fitted, and no more."""

HIGH = replace(STANDARD, distil=replace(STANDARD.distil, steps=60))
"""The same as standard, and distilled on top: sides that no view shows become what the prior believes of them."""

MVDREAM_NOISE = NoiseRange(low=Anneal(start=0.98, end=0.02, steps=8000), high=Anneal(start=0.98, end=0.50, steps=8000))
"""MVDream's noise levels, from a blob and over 10,000 steps, which `MVDREAM` says too; too high after a fit."""

MVDREAM_NEGATIVE = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, "
    "lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad "
    "proportions"
)
"""MVDream's fixed negative prompt, as released: a comma is missing after "pixelated"."""

# Numbers of MVDream-threestudio, configs/mvdream-sd21-shading.yaml, unless something else is said; in our units, whose
# scene is half as large.  One configuration for all prompts (the paper, section 4.3).
MVDREAM = LiftSettings(
    start=FromBlob(radius=0.25),  # density_blob_std 0.5
    representation=RELEASED,  # scene/hashfield.py
    distil=DistilSettings(
        steps=10_000,  # trainer.max_steps
        score=Reconstruction(rescale=0.5),  # recon_loss, recon_std_rescale
        score_mean="views",  # lambda_sds 1 on a sum over latents
        guidance=50.0,  # guidance_scale
        negative=MVDREAM_NEGATIVE,
        noise_at_start=(0.98, 0.98),  # min_step_percent [0, 0.98, 0.02, 8000], max_step_percent [0, 0.98, 0.50, 8000]
        noise_at_end=(0.02, 0.50),
        anneal_steps=8000,
        sample_posterior=True,  # get_first_stage_encoding
        views=4,  # n_view
        elevation_deg=(0.0, 30.0),  # elevation_range
        elevation_by_area=0.5,  # a coin in random_multiview.py
        lens=DrawnLens(fov_deg=(15.0, 60.0), distance=(0.8, 1.0)),  # fovy_range, camera_distance_range
        phases=(  # batch_size [8, 4], width and height [64, 256], resolution_milestones [5000]
            Phase(size=64, objects=2),
            Phase(from_step=5000, size=256, objects=1),
        ),
        # random_aug with its own share, share_aug_bg; neural-environment-map-background at lr 0.001
        backdrop=Backdrop(solid_share=0.5, shared="batch", learned=True, rate=0.01),
        shading=Shading(
            albedo_steps=5000,  # ambient_only_steps
            shaded_share=0.75,  # diffuse_prob, threestudio's own
            textureless_share=0.5,  # textureless_prob
            ambient=(0.0, 1.0),  # soft_shading
            light_distance=(0.4, 0.75),  # light_distance_range 0.8 to 1.5, threestudio's own
            light_spread=0.5,  # light_position_perturb 1.0, threestudio's own
        ),
        regularizer=Regularizer(  # lambda_orient [0, 10, 1000, 5000]; lambda_opaque, _sparsity, _z_variance 0
            orientation=Anneal(start=10.0, end=1000.0, steps=5000), opacity=0.0, sparsity=0.0, z_variance=0.0
        ),
        learning_rate=0.1,  # the hash tables take a tenth of it, 0.01, and the networks a hundredth, 0.001
        # AdamW with its own decay, and no schedule of the rate
        optimizer=OptimizerSettings(betas=(0.9, 0.99), eps=1e-15, weight_decay=0.01, last_rate=1.0),
        photometric_weight=0.0,  # no views
    ),
)
"""The paper's method, whole: score distillation from a blob, no views given.  Made for the released model, on a GPU."""

MVDREAM_REDUCED = replace(
    MVDREAM,
    representation=GridSettings(resolution=48, samples=40),
    distil=replace(
        MVDREAM.distil,
        steps=400,
        guidance=10.0,
        score_mean="latents",
        negative="",
        anneal_steps=320,
        lens=None,
        phases=(Phase(),),
        backdrop=None,
        shading=None,
        regularizer=Regularizer(),
        learning_rate=0.1,
        optimizer=OptimizerSettings(),
    ),
)
"""The same in about 90 CPU seconds, for the shipped model: its one lens, size and ground, a dense grid, 400 steps
(`benchmarks/from_blob.py`; 100 steps reached the right kind for two of four prompts)."""


def represented(settings: LiftSettings, kind: str | None) -> LiftSettings:
    """Return the settings with another representation, as it is made by default.

    Args:
        settings: returned as they are if they have it already, with numbers of their own.
        kind: "grid", "hash", "sdf", "gaussians" or "mesh"; None changes nothing.
    """
    made = {
        "grid": GridSettings(),
        "hash": HashGridSettings(),
        "sdf": SdfSettings(),
        "gaussians": GaussianSettings(),
        "mesh": MeshFormSettings(),
    }
    if kind is None or isinstance(settings.representation, type(made[kind])):
        return settings
    return replace(settings, representation=made[kind])
