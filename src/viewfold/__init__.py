"""viewfold: a text becomes consistent views of an object, and the views become a 3D asset.

    1 generate  prompt -> text tokens -> multi-view latents (cameras in) -> pictures + cameras    pipeline.py
    2 lift      views -> fitted field -> distilled against the prior -> mesh -> texture -> files  lift/optimize.py
    3 train     assets -> posed renders -> shards -> mixed 2D/3D batches -> checkpoint            train/loop.py

A session:

    import viewfold as vf

    model = vf.load("toybox")
    views = vf.generate(model, "a red mug", cameras=vf.Cameras.orbit(4, elevation_deg=15), seed=0)
    views.save("out/mug")
    asset = vf.lift(model, "a red mug", views=views, seed=0)
    asset.save("mug.glb")

Names are imported when they are first used, so that `import viewfold` is instant and needs no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
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
    from viewfold.flow import lift
    from viewfold.image import Views
    from viewfold.lift.optimize import Asset3D, LiftSettings
    from viewfold.model.weights import convert, load_unet
    from viewfold.pipeline import MultiViewPipeline, generate, load

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
    "LiftSettings",
    "load",
    "load_unet",
    "MissingExtraError",
    "MultiViewPipeline",
    "OutputError",
    "PromptError",
    "ViewfoldError",
    "Views",
    "WeightsError",
]

_HOMES = {
    "Asset3D": "lift.optimize",
    "Cameras": "camera",
    "LiftSettings": "lift.optimize",
    "MultiViewPipeline": "pipeline",
    "Views": "image",
    "convert": "model.weights",
    "generate": "pipeline",
    "load": "pipeline",
    "load_unet": "model.weights",
}
"""The module that each public name comes from; the errors are the rest, and `lift` see below."""


def __getattr__(name: str) -> Any:
    if name == "lift":
        return import_module("viewfold.lift")
    if name not in __all__:
        raise AttributeError(f"module 'viewfold' has no attribute {name!r}")
    value = getattr(import_module(f"viewfold.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Verb(ModuleType):
    """A package that can be called like the function of the same name in `viewfold.flow`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from viewfold import flow

        return flow.lift(*args, **kwargs)


class _Package(ModuleType):
    """`lift` is a verb of the public surface and a package: `vf.lift(...)` and `viewfold.lift.optimize` both work.

    Importing any part of the package makes Python bind it as `viewfold.lift`, in whatever order; at that moment it is
    made callable.  So there is one object of that name, and no order of imports that changes what it is.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "lift" and type(value) is ModuleType:
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
