"""`viewfold lift --maps`: colour, opacity, depth and normals of what was lifted, from all around, beside its file.

As `viewfold render --depth --normals` draws and calls them, and with a transforms.json, so that `lift --from` and
nerfstudio read the folder too.  They show the object where it was made, in a sphere of radius 0.5 about the origin;
`file_from_world` of run.json leads to the file's place and size (--height, --origin), z up.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viewfold.lifting.asset import Asset3D

MAP_FILES = r"\d{3}\.webp|\d{3}\.(depth|normal|opacity)\.png|transforms\.json|run\.json|\.DS_Store"
"""Names in such a folder; one that holds anything else is never replaced."""

SIDES, ELEVATION_DEG, SIZE = 8, 15.0, 512
"""Circle of views, the first of the front, and their width in pixels."""


def maps_beside(path: Path) -> Path:
    """Return where the maps of an asset are: a.glb -> a.maps."""
    return path.with_suffix(".maps")


def check_maps(path: Path) -> None:
    """Fail before the work if the maps of an asset could not be put beside it.

    Raises:
        OutputError: the place is taken by something else, or cannot be written.
    """
    from viewfold.store import check_output

    check_output(maps_beside(path), holds=MAP_FILES)


def write_maps(asset: Asset3D, path: Path) -> Path:
    """Write the maps of an asset whose file is at `path`, over older ones, whole or not at all; return the folder.

    Raises:
        OutputError: the folder cannot be written, or holds other things than maps.
    """
    from viewfold.data.engines import RenderSettings, Subject
    from viewfold.data.engines.builtin import Builtin
    from viewfold.data.render import write_pictures
    from viewfold.data.rendered import asset_facts
    from viewfold.picture import to_pil
    from viewfold.scene.framing import Framing
    from viewfold.store import atomic_write, write_json
    from viewfold.views import Views

    check_maps(path)
    fov = float(asset.views.cameras.fov_deg.mean())
    settings = RenderSettings(
        size=SIZE,
        orbits=1,
        views=SIDES,
        elevation_deg=(ELEVATION_DEG, ELEVATION_DEG),
        random_azimuth=False,
        fov_deg=(fov, fov),
        depth=True,
        normals=True,
    )
    cameras, label = settings.cameras(""), asset.label
    subject = Subject(uid="", mesh=asset.mesh, framing=Framing(center=(0.0, 0.0, 0.0), scale=1.0))
    pictures = Builtin().draw(subject, cameras, settings)
    rgb, alpha = pictures.rgba.split([3, 1], dim=1)
    transforms = Views(rgb=rgb, alpha=alpha, cameras=cameras).transforms(suffix=".webp")
    said = {"file_from_world": asset.standing.matrix(asset.mesh).tolist(), "render": settings.record()}
    with atomic_write(maps_beside(path)) as temporary:
        temporary.mkdir()
        names = write_pictures(pictures, temporary, settings, label=label)
        for index, (frame, named, opacity) in enumerate(zip(transforms["frames"], names, alpha, strict=True)):
            frame |= {
                "depth_file_path": named["depth_file"],
                "depth_scale": named["depth_scale"],
                "normal_file_path": named["normal_file"],
                "opacity_file_path": f"{index:03d}.opacity.png",
            }
            grey = to_pil(opacity.expand(3, -1, -1)).convert("L")
            grey.save(temporary / frame["opacity_file_path"], **label.picture_options(".png"))
        write_json(temporary / "transforms.json", transforms)
        write_json(
            temporary / "run.json",
            {"prompt": asset.prompt, "asset": asset_facts(path), **said, **label.report()},
        )
    return maps_beside(path)
