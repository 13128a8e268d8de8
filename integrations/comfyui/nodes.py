"""The boxes: load a model, draw views of a text, take pictures as views, make an asset of views, save it.

They call viewfold and nothing else; what they ask of ComfyUI is in host.py.  ComfyUI wants methods and class attributes
of these names; a tuple is what comes out of a box's sockets.
"""

from __future__ import annotations

from typing import Any

try:
    import viewfold as vf
except ModuleNotFoundError as error:
    raise ImportError("viewfold is not installed in ComfyUI's Python: see this node pack's README.") from error

import torch

from .host import Watch, compute_device, next_file, with_gradients

MODEL, VIEWS, ASSET = "VIEWFOLD_MODEL", "VIEWFOLD_VIEWS", "VIEWFOLD_ASSET"
"""Our own kinds of sockets."""

CATEGORY = "viewfold"

RING = 4
"""Views on a ring; further ones are drawn around them, as `lift` does, so that a top is seen and a hollow seen into."""

SEED = ("INT", {"default": 0, "min": 0, "max": 2**31 - 1, "control_after_generate": True})
PROMPT = ("STRING", {"default": "a red mug", "multiline": True, "tooltip": "What to make."})


class LoadModel:
    """A model of text to views, ready on a device."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    DESCRIPTION = "Load a model: the shipped toybox, an installed one, a folder or a released MVDream file."
    RETURN_TYPES, RETURN_NAMES = (MODEL,), ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return what goes in."""
        name = {"default": "toybox", "tooltip": "toybox, mvdream-sd21, mvdream-sd15, a folder or a file."}
        device = {"default": "auto", "tooltip": "auto: where ComfyUI computes."}
        return {"required": {"name": ("STRING", name), "device": (["auto", "cpu", "cuda", "mps"], device)}}

    @with_gradients
    def load(self, name: str, device: str) -> tuple[Any]:
        """Return the model."""
        return (vf.load(name.strip(), device=compute_device(device)),)


class TextToViews:
    """Consistent pictures of one object from all around."""

    CATEGORY, FUNCTION = CATEGORY, "draw"
    DESCRIPTION = "Draw an object from cameras around it: the front first, then counter-clockwise seen from above."
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", VIEWS), ("images", "views")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return what goes in; 0 steps, guidance -1 and an empty negative prompt are the model's own."""
        negative = {"default": "", "multiline": True, "tooltip": "What to keep away from; empty: the model's own."}
        views = {"default": 4, "min": 1, "max": 64, "tooltip": "Up to 4 stand on a ring; more are drawn "
                 "around those, lower and higher in turn. 16 make a better asset."}  # fmt: skip
        elevation = {"default": 15.0, "min": -89.0, "max": 89.0, "step": 1.0, "tooltip": "Of the ring, in degrees."}
        steps = {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the model's own."}
        guidance = {"default": -1.0, "min": -1.0, "max": 100.0, "step": 0.1, "tooltip": "-1: the model's own."}
        return {
            "required": {
                "model": (MODEL,),
                "prompt": PROMPT,
                "negative": ("STRING", negative),
                "views": ("INT", views),
                "elevation": ("FLOAT", elevation),
                "seed": SEED,
                "steps": ("INT", steps),
                "guidance": ("FLOAT", guidance),
            }
        }

    @with_gradients
    def draw(
        self,
        model: Any,
        prompt: str,
        negative: str,
        views: int,
        elevation: float,
        seed: int,
        steps: int,
        guidance: float,
    ) -> tuple[torch.Tensor, Any]:
        """Return the pictures as ComfyUI has them, and the views."""
        from viewfold.lifting.survey import Survey

        watch = Watch()
        told = {
            "seed": seed,
            "steps": steps or None,
            "guidance": None if guidance < 0 else guidance,
            "negative": negative.strip() or None,
            "progress": watch.step,
            "previews": lambda _done, _total, rgb: watch.show(rgb),
        }
        ring = vf.Cameras.orbit(min(views, RING), elevation_deg=elevation)
        others = Survey(views=views).others(ring)
        if others is None:
            drawn = vf.generate(model, prompt, cameras=ring, **told)
        elif model.defaults.lift_around:
            first = vf.generate(model, prompt, cameras=ring, **told)
            drawn = vf.generate(model, prompt, cameras=others, given=first, **told)
        else:
            drawn = vf.generate(model, prompt, cameras=vf.Cameras.cat([ring, others]), **told)
        return pictures_of(drawn), drawn


class ImagesToViews:
    """Pictures from elsewhere, with the cameras that took them."""

    CATEGORY, FUNCTION = CATEGORY, "pose"
    DESCRIPTION = "Say from where square pictures of an object show it: one azimuth and elevation each, in degrees."
    RETURN_TYPES, RETURN_NAMES = (VIEWS,), ("views",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return what goes in."""
        azimuths = {"default": "0, 90, 180, 270", "tooltip": "0 is the front; 90 shows the front's face to the left."}
        elevations = {"default": "15", "tooltip": "One for all, or one for each; up is positive."}
        fov = {"default": 40.0, "min": 1.0, "max": 120.0, "step": 0.5, "tooltip": "Full field of view, in degrees."}
        distance = {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.01, "tooltip": "In the object's diameters; 0: "
                    "where it fills four fifths of the picture."}  # fmt: skip
        mask = {"tooltip": "As Load Image gives it: 1 where the object is not."}
        return {
            "required": {
                "images": ("IMAGE",),
                "azimuths": ("STRING", azimuths),
                "elevations": ("STRING", elevations),
                "fov": ("FLOAT", fov),
                "distance": ("FLOAT", distance),
                "prompt": ("STRING", {"default": "", "tooltip": "What they show."}),
            },
            "optional": {"mask": ("MASK", mask)},
        }

    @with_gradients
    def pose(
        self,
        images: torch.Tensor,
        azimuths: str,
        elevations: str,
        fov: float,
        distance: float,
        prompt: str,
        mask: torch.Tensor | None = None,
    ) -> tuple[Any]:
        """Return views of the pictures; the colours are straight, as Load Image gives them."""
        height, width = images.shape[1:3]
        if height != width:
            raise vf.InputError(f"`images` must be square; got {width} x {height}. Crop or pad them first.")
        pictures = images.detach().cpu().float().clone().movedim(-1, 1)  # a copy, for theirs are of inference mode
        alpha = pictures[:, 3:] if pictures.shape[1] == 4 else None
        if mask is not None:
            if mask.shape[-2:] != images.shape[1:3] or len(mask) not in (1, len(images)):
                raise vf.InputError(f"`mask` must be as large as `images`; got {tuple(mask.shape)}.")
            alpha = 1 - mask.detach().cpu().float().clone()[:, None].expand(len(images), -1, -1, -1)
        cameras = vf.Cameras.at(
            elevation_deg=numbers(elevations, "elevations"),
            azimuth_deg=numbers(azimuths, "azimuths"),
            fov_deg=fov,
            distance=distance or None,
        )
        return (vf.Views(rgb=pictures[:, :3], alpha=alpha, cameras=cameras, prompt=prompt.strip()),)


class ViewsToAsset:
    """A textured mesh that looks like the views."""

    CATEGORY, FUNCTION = CATEGORY, "lift"
    DESCRIPTION = "Fit a 3D object to views; without views, the model draws as many as it turns well."
    RETURN_TYPES, RETURN_NAMES = (ASSET,), ("asset",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return what goes in."""
        quality = {"default": "standard", "tooltip": "draft fits few views, standard many, high distils too."}
        prompt = {"default": "", "multiline": True, "tooltip": "What it is; empty: what the views were drawn of."}
        return {
            "required": {
                "model": (MODEL,),
                "prompt": ("STRING", prompt),
                "quality": (["draft", "standard", "high"], quality),
                "seed": SEED,
            },
            "optional": {"views": (VIEWS,)},
        }

    @with_gradients
    def lift(self, model: Any, prompt: str, quality: str, seed: int, views: Any = None) -> tuple[Any]:
        """Return the asset."""
        from viewfold.lifting import presets

        watch = Watch()
        settings = {"draft": presets.DRAFT, "standard": presets.STANDARD, "high": presets.HIGH}[quality]
        words = prompt.strip() or (views.prompt if views is not None else "")
        asset = vf.lift(
            model,
            words,
            views=views,
            seed=seed,
            settings=settings,
            progress=watch.stage,
            previews=lambda seen: watch.show(seen.rgb),
        )
        return (asset,)


class SaveAsset:
    """A 3D file in ComfyUI's output folder."""

    CATEGORY, FUNCTION = CATEGORY, "save"
    DESCRIPTION = "Save an asset; `path` is relative to the output folder, as Preview 3D takes it."
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("path",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return what goes in."""
        prefix = {"default": "3d/viewfold", "tooltip": "Folders and the beginning of the name; a number follows."}
        return {
            "required": {
                "asset": (ASSET,),
                "filename_prefix": ("STRING", prefix),
                "format": (["glb", "obj", "ply", "stl"], {"default": "glb"}),
            }
        }

    @with_gradients
    def save(self, asset: Any, filename_prefix: str, format: str) -> dict[str, Any]:
        """Write the file, and its report beside it; say where it is."""
        output, path = next_file(filename_prefix, f".{format}")
        asset.save(path, turntable=False)
        where = path.relative_to(output)
        folder = where.parent.as_posix().removeprefix(".")
        shown = {"filename": where.name, "subfolder": folder, "type": "output"}
        return {"ui": {"3d": [shown]}, "result": (where.as_posix(),)}


def pictures_of(views: vf.Views) -> torch.Tensor:
    """Return opaque pictures as ComfyUI has them: "v h w 3" in [0, 1], float, on the CPU."""
    return views.over().clamp(0, 1).movedim(1, -1).float().cpu().contiguous()


def numbers(text: str, name: str) -> list[float]:
    """Return the numbers of a text with commas or blanks between them.

    Raises:
        InputError: something else stands there.
    """
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise vf.InputError(f"`{name}` must be numbers with commas between them; got {text!r}.") from error
    if not found:
        raise vf.InputError(f"`{name}` must hold a number at least; got none.")
    return found


NODE_CLASS_MAPPINGS = {
    "ViewfoldLoadModel": LoadModel,
    "ViewfoldTextToViews": TextToViews,
    "ViewfoldImagesToViews": ImagesToViews,
    "ViewfoldViewsToAsset": ViewsToAsset,
    "ViewfoldSaveAsset": SaveAsset,
}
"""Under names that no other pack has."""

NODE_DISPLAY_NAME_MAPPINGS = {
    "ViewfoldLoadModel": "Load viewfold model",
    "ViewfoldTextToViews": "Text to views",
    "ViewfoldImagesToViews": "Images to views",
    "ViewfoldViewsToAsset": "Views to 3D asset",
    "ViewfoldSaveAsset": "Save 3D asset",
}
