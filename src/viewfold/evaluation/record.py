"""What `viewfold evaluate` says of one thing: views of an object, or a mesh, alone and beside a true one.

Plain dictionaries, so that they go into JSON as they are: every number is finite, and what cannot be asked is None.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from viewfold.camera import OBJECT_RADIUS, Cameras
from viewfold.errors import InputError
from viewfold.evaluation.colors import Colors, Corpus, measure_colors
from viewfold.evaluation.consistency import find_coverage, measure_consistency
from viewfold.evaluation.distinctness import measure_distinctness
from viewfold.evaluation.epipolar import measure_epipolar
from viewfold.evaluation.health import examine
from viewfold.evaluation.likeness import compare_pictures, compare_surfaces
from viewfold.evaluation.matches import measure_matches
from viewfold.evaluation.repetition import measure_repetition
from viewfold.scene.mesh import Mesh
from viewfold.scene.rasterize import rasterize
from viewfold.views import Views

SIDES = Cameras.orbit(8, elevation_deg=[5.0, 25.0] * 4)
"""From where pictures of two meshes are compared."""

SIZE = 256
"""Pixels a side of those."""


def views_record(views: Views, *, corpus: Corpus | None = None) -> dict[str, Any]:
    """Return what views of one object are worth by themselves: see `Consistency`, `measure_distinctness`, `Repetition`,
    `Epipolar`, `Colors`.

    Args:
        views: two or more, square.
        corpus: colours of true things, among which these are placed.

    Raises:
        InputError: fewer than two views, or pictures that are not square.
    """
    rgb = views.over()
    if rgb.shape[2] != rgb.shape[3]:
        raise InputError(f"`rgb` must hold square pictures; got {rgb.shape[3]} x {rgb.shape[2]}.")
    coverage = find_coverage(rgb) if views.alpha is None else views.alpha
    colors = measure_colors(rgb, coverage=coverage)
    return {
        "views": len(views),
        "size": rgb.shape[-1],
        "prompt": views.prompt,
        "agreement": asdict(measure_consistency(rgb, views.cameras, coverage=coverage)),
        "distinctness": measure_distinctness(rgb, views.cameras, coverage=coverage),
        "repetition": _fields(measure_repetition(rgb, views.cameras, coverage=coverage)),
        "epipolar": _fields(measure_epipolar(rgb, views.cameras, coverage=coverage)),
        "colors": None
        if colors is None
        else asdict(colors) | ({} if corpus is None else {"place": corpus.place(colors)}),
    }


def views_colors(views: Views) -> Colors | None:
    """Return the colours of the object that views show, for a `Corpus`; None where there is nothing to see."""
    rgb = views.over()
    return measure_colors(rgb, coverage=find_coverage(rgb) if views.alpha is None else views.alpha)


def matches_record(views: Views) -> dict[str, Any]:
    """Return how key points of neighbouring views lie: see `Matches`, and `measure_matches` for what is raised."""
    rgb = views.over()
    coverage = find_coverage(rgb) if views.alpha is None else views.alpha
    return asdict(measure_matches(rgb, views.cameras, coverage=coverage))


def _fields(measured: Any) -> dict[str, Any] | None:
    return None if measured is None else asdict(measured)


def score_views(views: Views) -> float:
    """Return how good views are by themselves, 0 to 1: agreement times distinctness, what `--tries` chooses by.

    Raises:
        InputError: fewer than two views.
    """
    rgb = views.over()
    coverage = find_coverage(rgb) if views.alpha is None else views.alpha
    distinct = measure_distinctness(rgb, views.cameras, coverage=coverage)
    agreement = measure_consistency(rgb, views.cameras, coverage=coverage).score
    return agreement * (1.0 if distinct is None else distinct)


def mesh_record(mesh: Mesh, reference: Mesh | None = None, *, fit: bool = False) -> dict[str, Any]:
    """Return what is wrong with a mesh (`Health`), and how like a true one it is.

    Args:
        mesh, reference: as their files have them.
        fit: move and scale both into the sphere of `OBJECT_RADIUS` about the origin before they are compared.  Without,
            both must lie in it: nothing is aligned, a thing of another size is not like.

    Raises:
        InputError: a mesh without faces; or, beside a reference, one that does not lie in the sphere.
    """
    record: dict[str, Any] = {"health": asdict(examine(mesh))}
    if reference is None:
        return record
    made, true = (one.fit_sphere(OBJECT_RADIUS) if fit else one for one in (mesh, reference))
    for name, one in (("mesh", made), ("reference", true)):
        reach = float(one.vertices[one.faces.flatten()].norm(dim=-1).amax())
        if reach > 2 * OBJECT_RADIUS:
            raise InputError(
                f"`{name}` must lie within {2 * OBJECT_RADIUS:g} of the origin to be compared in place; it reaches "
                f"{reach:.3g}. Give `fit` to move and scale both into the same sphere."
            )
    pictures = compare_pictures(*(rasterize(one, SIDES, size=SIZE) for one in (made, true)))
    record["reference"] = {**asdict(pictures), **asdict(compare_surfaces(made, true)), "fit": fit}
    return record
