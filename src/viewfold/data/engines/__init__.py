"""Engines that photograph assets, behind one function: our rasteriser, Blender's Cycles, and OpenGL.

    settings    what is asked for: cameras, light, engine; the same cameras in every engine
    subject     one object in its place, the protocol of an engine, the pictures that it returns
    builtin     our rasteriser
    blender     Cycles, in a process of its own; `blender_scene` is what runs there, `exr` reads its pictures
    opengl      the same picture as the built-in one, by moderngl; `shaders` are its programs

Sits between `scene` and `data.render`; knows no folders of results.
"""

from __future__ import annotations

from pathlib import Path

from viewfold.data.engines.settings import PAPER, Cycles, RenderSettings
from viewfold.data.engines.subject import Engine, EngineLost, Pictures, Subject

__all__ = [
    "PAPER",
    "Cycles",
    "Engine",
    "EngineLost",
    "Pictures",
    "RenderSettings",
    "Subject",
    "open_engine",
]


def open_engine(settings: RenderSettings, *, blender: str | Path | None = None, threads: int | None = None) -> Engine:
    """Return the engine that the settings name, ready to draw; close it afterwards.

    Args:
        blender: a Python that has bpy, or Blender's executable; None looks at VIEWFOLD_BLENDER, then for `blender`.
        threads: of a program that draws on several by itself; None leaves it to the program.

    Raises:
        MissingExtraError: what it needs is not installed.
    """
    match settings.engine:
        case "builtin":
            from viewfold.data.engines.builtin import Builtin

            return Builtin()
        case "blender":
            from viewfold.data.engines.blender import Blender

            return Blender(blender, threads=threads)
        case "moderngl":
            from viewfold.data.engines.opengl import OpenGL

            return OpenGL(threads=threads)
