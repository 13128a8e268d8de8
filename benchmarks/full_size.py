"""The full-size network: time, peak memory and error of each setting, beside the original code and the community port.

    python benchmarks/full_size.py --folder out/full-size [--cases float32 bfloat16 int8 original port] [--whole]

The SD 2.1 layout (UNet 867.57 M parameters, text 340 M, VAE 84 M) with random weights, written once as a bfloat16 model
folder (2.5 GiB).  Four views of 32x32 latents, 77 text tokens, one thread.  Each case is a process of its own:

    call    CPU seconds of one call of the UNet, without guidance (batch 4)
    steps   CPU seconds of two sampling steps with guidance (batch 8)
    peak    of the process, all of it: load, read the prompt, release the text network, two steps, decode one view
            (--whole: all four)
    error   of the latents after the two steps, against float32: |difference| / |float32|

CPU seconds mean the same on a busy machine.  The peers are timed where they can be imported: `mvdream`
(bytedance/MVDream) and `mv_unet` (ashawkey/mvdream_diffusers); of them only the UNet is made, in float32.
Targets: `call` at most 13 s in float32 and 0.65 of it in bfloat16; `steps` no more than the peers' in float32, at
most 1 / 1.5 of the original's in bfloat16; peak under 3.5 GiB in bfloat16.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewfold.model.presets import MVDREAM_SD21

N_VIEWS, SIZE, N_TOKENS = 4, 32, 77
PROMPT = "a red mug"
OURS = {
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"dtype": torch.bfloat16, "int8": True},
}
PEERS = {"original": "mvdream", "port": "mv_unet"}
PEER_LAYOUT: dict[str, Any] = {  # the original's `sd-v2-base.yaml`
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 64,
    "transformer_depth": 1,
    "context_dim": 1024,
    "camera_dim": 16,
}


def make_networks() -> dict[str, Any]:
    """Return the three networks of the released size with the libraries' initial weights, on the default device."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    levels: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16
    )
    return {
        "unet": MVDREAM_SD21.build(),
        "vae": AutoencoderKL(latent_channels=4, layers_per_block=2, sample_size=256, **levels),
        "text_encoder": CLIPTextModel(text),
    }


def make_tokenizer() -> Any:
    """Return the shipped model's tokenizer with the released length: any words will do."""
    from transformers import AutoTokenizer

    package = Path(str(importlib.util.find_spec("viewfold").origin)).parent  # type: ignore[union-attr]
    return AutoTokenizer.from_pretrained(package / "models" / "toybox" / "tokenizer", model_max_length=N_TOKENS)


def make_folder(folder: Path) -> None:
    """Write a model of the released size with random weights (norms: one), the same ones every time."""
    from safetensors.torch import save_file

    from viewfold.weights.convert import write_scheduler

    with torch.device("meta"):
        networks = make_networks()
    for part, network in networks.items():
        place = folder / part
        place.mkdir(parents=True, exist_ok=True)
        file = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        tensors = {name: _random(name, tensor) for name, tensor in network.state_dict().items()}
        save_file(tensors, place / f"{file}.safetensors", metadata={"format": "pt"})
        network.config.save_pretrained(place) if part == "text_encoder" else network.save_config(place)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    write_scheduler(folder / "scheduler")
    index = {
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", type(tokenizer).__name__],
        "unet": ["viewfold.model.unet", "MultiViewUNet"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


_BLOCK = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).bfloat16()


def _random(name: str, tensor: Tensor) -> Tensor:
    """Repeat one block of normal numbers, which is quick, scaled so that signals neither grow nor vanish."""
    if tensor.ndim < 2:
        return torch.full(tensor.shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.bfloat16)
    deviation = 0.5 / math.sqrt(tensor[0].numel())
    repeats = math.ceil(tensor.numel() / len(_BLOCK))
    return (_BLOCK * deviation).repeat(repeats)[: tensor.numel()].reshape(tensor.shape).contiguous()


def fill(network: nn.Module) -> nn.Module:
    """Give a network that was built on the meta device the same kind of weights, in float32."""
    network.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(_random(name, parameter))
    return network.eval()


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def run_ours(folder: Path, latents_file: Path, *, whole: bool, int8: bool = False, dtype: torch.dtype) -> dict:
    """Run a case in this process."""
    import viewfold as vf
    from viewfold.pipeline.placement import Placement

    model = vf.load(folder, device="cpu", dtype=dtype, placement=Placement(int8=int8))
    model.release_text([PROMPT])
    cameras = vf.Cameras.orbit(N_VIEWS)
    told = model.condition([PROMPT]), cameras
    noise = torch.randn(1, N_VIEWS, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)
    latents = torch.empty(0)

    def sample() -> None:
        nonlocal latents
        latents = model(PROMPT, cameras, steps=2, guidance=7.5, output_type="latent")

    with torch.no_grad():
        model.unet(noise[..., :8, :8], 500, *told)  # reads the weights from the disk
        found = {"call": cpu_seconds(lambda: model.unet(noise, 500, *told)), "steps": cpu_seconds(sample)}
        torch.save(latents, latents_file)
        shown = latents[0] if whole else latents[0, :1]
        found["decode"] = cpu_seconds(lambda: model.decode(shown)) / len(shown)
    return found


def run_peer(name: str) -> dict:
    """Time the two calls of two steps with guidance, the walk between them left out."""
    if name == "original":
        from mvdream.ldm.modules.diffusionmodules.openaimodel import (  # type: ignore[import-not-found]
            MultiViewUNetModel,
        )

        options = {"use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False}
    else:
        from mv_unet import MultiViewUNetModel  # type: ignore[import-not-found]

        options = {}
    with torch.device("meta"):
        unet = MultiViewUNetModel(**PEER_LAYOUT, **options)
    unet = fill(unet)

    def call(n: int, size: int = SIZE) -> Tensor:
        latents, text = torch.randn(n, 4, size, size), torch.randn(n, N_TOKENS, 1024)
        camera = torch.randn(n, 16)
        return unet(latents, torch.full((n,), 500), context=text, camera=camera, num_frames=N_VIEWS)

    with torch.no_grad():
        call(N_VIEWS, size=8)
        once = cpu_seconds(lambda: call(N_VIEWS))
        return {"call": once, "steps": cpu_seconds(lambda: [call(2 * N_VIEWS) for _ in range(2)])}


def run_case(name: str, folder: Path, latents_file: Path, *, whole: bool) -> dict:
    """Run a case in a process of its own and return its figures."""
    command = [sys.executable, __file__, "--case", name, "--folder", str(folder), "--latents", str(latents_file)]
    done = subprocess.run([*command, *(["--whole"] if whole else [])], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("out/full-size"))
    parser.add_argument("--cases", nargs="+", choices=[*OURS, *PEERS], default=["float32", "bfloat16", *PEERS])
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--latents", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.case:
        if options.case in OURS:
            found = run_ours(options.folder, options.latents, whole=options.whole, **OURS[options.case])
        else:
            found = run_peer(options.case)
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found))
        return
    if not (options.folder / "model_index.json").is_file():
        make_folder(options.folder)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, one thread\n")
    print("| case | call s | 2 guided steps s | of float32 | decode s a view | peak GiB | error |\n" + "|---" * 7 + "|")
    base, exact = None, None
    with tempfile.TemporaryDirectory() as place:
        for name in options.cases:
            if name in PEERS and importlib.util.find_spec(PEERS[name]) is None:
                print(f"| {name} | not installed (`{PEERS[name]}`) |", flush=True)
                continue
            latents_file = Path(place) / f"{name}.pt"
            found = run_case(name, options.folder, latents_file, whole=options.whole)
            latents = torch.load(latents_file, weights_only=True) if latents_file.is_file() else None
            if name == "float32":
                base, exact = found["steps"], latents
            ratio = f"{found['steps'] / base:.2f}" if base else ""
            error = (
                f"{(latents - exact).norm() / exact.norm():.4f}" if exact is not None and latents is not None else ""
            )
            decode = f"{found['decode']:.1f}" if "decode" in found else ""
            row = [name, f"{found['call']:.2f}", f"{found['steps']:.2f}", ratio, decode, f"{found['peak']:.2f}", error]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
