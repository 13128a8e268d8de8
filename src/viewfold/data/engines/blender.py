"""Blender's Cycles as an engine: a process of its own, which gets jobs as files and answers with OpenEXR pictures.

bpy wants other versions of NumPy and Python than viewfold, and is GPL: it is started as a program, never imported.  One
process draws many assets, because it takes seconds to start.  `blender_scene` is what runs in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from viewfold.camera import Cameras
from viewfold.data.engines.exr import read_exr
from viewfold.data.engines.settings import RenderSettings
from viewfold.data.engines.subject import EngineLost, Pictures, Subject
from viewfold.errors import AssetError, InputError, MissingExtraError
from viewfold.scene.color import linear_from_srgb, srgb_from_linear
from viewfold.scene.interchange import to_trimesh
from viewfold.scene.light import Light
from viewfold.scene.mesh import CREASE_DEG
from viewfold.scene.visibility import NEAR

PROGRAM = "VIEWFOLD_BLENDER"
"""Environment variable that names the program."""

HOW_TO_GET = (
    "Install it beside viewfold, with Python 3.11: `python3.11 -m venv blender && blender/bin/pip install bpy==5.0.1`, "
    f"and give --blender blender/bin/python (or set {PROGRAM}); or name a Blender of 4.2 or later."
)
_SCRIPT = Path(__file__).with_name("blender_scene.py")
_ANSWER = "viewfold-render: "
HDRIS = (".hdr", ".exr")


class Blender:
    """Draws in a Blender that is started when the first asset comes, and again if it has died."""

    def __init__(self, program: str | Path | None = None, *, threads: int | None = None) -> None:
        self.command, self.threads = find_blender(program), threads
        self._process: Any = None
        self._version = ""

    @property
    def version(self) -> str:
        """ "Blender" and its version, once it has drawn."""
        return f"Blender {self._version}"

    def draw(self, subject: Subject, cameras: Cameras, settings: RenderSettings) -> Pictures:
        """Return the pictures; see `Engine`.

        Raises:
            EngineLost: Blender died.
        """
        with tempfile.TemporaryDirectory(prefix="viewfold-") as folder:
            files = [Path(folder) / f"{index:03d}.exr" for index in range(len(cameras))]
            job, notes = self._job(subject, cameras, settings, files)
            (Path(folder) / "job.json").write_text(json.dumps(job))
            answer = self._ask(str(Path(folder) / "job.json"))
            if "elsewhere" in answer and subject.path is not None:
                ours = self.draw(replace(subject, path=None), cameras, settings)
                return replace(ours, notes={**ours.notes, "read_by": "viewfold"})
            if answer:
                problem = answer.get("error", "its reader puts it elsewhere than ours. Use another engine.")
                raise AssetError(f"`{subject.path or subject.uid}` cannot be drawn by Blender: {problem}")
            return _develop([read_exr(file) for file in files], is_lit=job["light"] is not None, notes=notes)

    def close(self) -> None:
        """End Blender."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(OSError):
                process.stdin.close()

    def _job(
        self, subject: Subject, cameras: Cameras, settings: RenderSettings, files: Sequence[Path]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what Blender is to do, and what meta.json is to say of it."""
        cycles = settings.cycles
        assert cycles is not None
        light, hdri, notes = settings.light_of(subject.uid), None, {}
        if cycles.hdri is not None:
            choices = find_surroundings(Path(cycles.hdri))
            chosen, turn = settings.surroundings_of(subject.uid, len(choices))
            hdri = {"hdri": str(choices[chosen].resolve()), "turn_deg": turn}
            notes = {"hdri": choices[chosen].name, "turn_deg": turn, "light": None}
        path, framing = subject.path, subject.framing
        if path is None:
            path = files[0].with_name("subject.glb")
            to_trimesh(subject.mesh).export(path)
            framing = type(framing)(center=(0.0, 0.0, 0.0), scale=1.0)
        used = subject.mesh.vertices[subject.mesh.faces.flatten().unique()]
        views = zip(cameras.world_from_camera.flatten(1).tolist(), cameras.fov_deg.tolist(), files, strict=True)
        return {
            "asset": str(path.resolve()),
            "kind": path.suffix.lower()[1:],
            "center": framing.center,
            "scale": framing.scale,
            "box": [used.amin(0).tolist(), used.amax(0).tolist()],
            "near": NEAR,
            "crease_deg": CREASE_DEG,
            "size": settings.size,
            "samples": cycles.samples,
            "bounces": cycles.bounces if light is not None else 0,
            "denoise": cycles.denoise and light is not None,
            "device": cycles.device,
            "threads": self.threads,
            "seed": settings.seed % 2**31,
            "light": None if light is None else hdri or {"hdri": None, **_linear(light)},
            "views": [{"world_from_camera": pose, "fov_deg": fov, "file": str(file)} for pose, fov, file in views],
        }, notes

    def _ask(self, job: str) -> dict[str, str]:
        """Hand over a job and wait; return what was wrong with the asset, nothing if it is drawn."""
        process = self._process if self._process and self._process.poll() is None else self._start()
        try:
            process.stdin.write(job + "\n")
            process.stdin.flush()
            return self._listen()
        except BrokenPipeError:
            raise self._lost() from None
        except BaseException:  # stopped in the middle: its answer would be taken for that to the next job
            self.close()
            raise

    def _start(self) -> Any:
        self.close()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env=environment,
        )
        try:
            self._version = self._listen()["version"]
        except EngineLost as error:
            raise MissingExtraError(
                f"`engine` blender needs Blender; '{self.command[0]}' has none. {HOW_TO_GET}"
            ) from error
        return self._process

    def _listen(self) -> dict[str, str]:
        """Return the next answer among what Blender prints."""
        for line in self._process.stdout:
            if line.startswith(_ANSWER):
                return json.loads(line[len(_ANSWER) :])
        raise self._lost()

    def _lost(self) -> EngineLost:
        code = self._process.wait()
        self.close()
        return EngineLost(f"Blender died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})")


def find_blender(program: str | Path | None) -> list[str]:
    """Return the command that starts `blender_scene` in Blender.

    Raises:
        MissingExtraError: there is none.
    """
    named = program or os.environ.get(PROGRAM) or "blender"
    found = shutil.which(str(named))
    if found is None:
        raise MissingExtraError(f"`engine` blender needs Blender; '{named}' is no program. {HOW_TO_GET}")
    if "python" in Path(found).name.lower():
        return [found, str(_SCRIPT)]
    return [found, "--background", "--factory-startup", "--python-exit-code", "1", "--python", str(_SCRIPT)]


def find_surroundings(place: Path) -> list[Path]:
    """Return the HDRI file, or those in a folder by name.

    Raises:
        InputError: there is none.
    """
    found = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
    found = [path for path in found if path.suffix.lower() in HDRIS and path.is_file()]
    if not found:
        raise InputError(f"`hdri` must be a file of {', '.join(HDRIS)} or a folder of them; `{place}` is none.")
    return found


def _linear(light: Light) -> dict[str, Any]:
    """Return a light for a renderer of linear colours: a grey that faces up, down or the lamp comes out as bright."""
    middle = (light.sky + light.ground) / 2
    sky, ground, middle, lit = linear_from_srgb(
        np.array([light.sky, light.ground, middle, middle + light.key])
    ).tolist()
    return {"sky": sky, "ground": ground, "key": lit - middle, "direction": list(light.direction)}


def _develop(layers: Sequence[dict[str, np.ndarray]], *, is_lit: bool, notes: dict[str, Any]) -> Pictures:
    """Make pictures of Blender's channels: linear and premultiplied become sRGB and straight."""

    def stack(kind: str, channels: str) -> np.ndarray:
        rows = []
        for layer in layers:
            found = {name.rpartition(".")[2]: value for name, value in layer.items() if f".{kind}." in name}
            rows.append(np.stack(list(found.values()) if channels == "*" else [found[c] for c in channels]))
        return np.nan_to_num(np.stack(rows))

    there = stack("there", "*")[:, :1]
    alpha = stack("Combined", "A").clip(0, 1)
    color, share = (stack("Combined", "RGB"), alpha) if is_lit else (stack("albedo", "RGB"), there)
    straight = srgb_from_linear((color / np.maximum(share, 1e-6)).clip(0, 1)) * (alpha > 0)
    depth = stack("depth", "*")[:, :1] / np.maximum(there, 1e-6)
    return Pictures(
        rgba=torch.from_numpy(np.concatenate([straight, alpha], axis=1).astype(np.float32)),
        depth=torch.from_numpy((depth * (there > 0)).astype(np.float32)),
        normal=functional.normalize(torch.from_numpy(stack("normal", "RGB").astype(np.float32)), dim=1),
        notes=notes,
    )
