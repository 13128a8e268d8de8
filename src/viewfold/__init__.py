"""viewfold: a text becomes consistent views of an object, and the views become a 3D asset.

    1 generate  prompt -> condition -> multi-view latents (cameras in) -> pictures + cameras  pipeline/multiview.py
    2 lift      views -> fitted representation -> distilled -> mesh -> texture -> files       lifting/stages.py
    3 train     assets -> posed renders -> shards -> mixed 2D/3D batches -> checkpoint        training/diffusion.py

A session:

    import viewfold as vf

    model = vf.load("toybox")
    views = vf.generate(model, "a red mug", cameras=vf.Cameras.orbit(4, elevation_deg=15), seed=0)
    views.save("out/mug")
    asset = vf.lift(model, "a red mug", views=views, seed=0)
    asset.save("mug.glb")

Names are imported when they are first used, so that `import viewfold` is instant and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viewfold.camera import Cameras
    from viewfold.errors import (
        AssetError,
        FileError,
        FitError,
        InputError,
        MissingExtraError,
        OutputError,
        PromptError,
        ViewfoldError,
        WeightsError,
    )
    from viewfold.lifting.stages import Asset3D, LiftSettings
    from viewfold.make import lift
    from viewfold.make_batch import lift_batch
    from viewfold.personalization import personalize
    from viewfold.pipeline import MultiViewPipeline, generate, load
    from viewfold.views import Views
    from viewfold.weights.convert import convert
    from viewfold.weights.network import load_unet

__version__ = "0.1.0"

__all__ = [
    "Asset3D",
    "AssetError",
    "Cameras",
    "convert",
    "FileError",
    "FitError",
    "generate",
    "InputError",
    "lift",
    "lift_batch",
    "LiftSettings",
    "load",
    "load_unet",
    "MissingExtraError",
    "MultiViewPipeline",
    "OutputError",
    "personalize",
    "PromptError",
    "ViewfoldError",
    "Views",
    "WeightsError",
]

_HOMES = {
    "Asset3D": "lifting.stages",
    "Cameras": "camera",
    "LiftSettings": "lifting.stages",
    "MultiViewPipeline": "pipeline",
    "Views": "views",
    "convert": "weights.convert",
    "generate": "pipeline",
    "lift": "make",
    "lift_batch": "make_batch",
    "load": "pipeline",
    "load_unet": "weights.network",
    "personalize": "personalization",
}
"""The module that each public name comes from; the errors are the rest."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'viewfold' has no attribute {name!r}")
    value = getattr(import_module(f"viewfold.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
