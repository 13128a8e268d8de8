"""What FID, KID and the inception score cost beside the encoder: shares of time, memory at N / 10 and at N, exactness.

    python benchmarks/fidelity.py                               # 10,000 pictures of 64 px, beside 1,000
    python benchmarks/fidelity.py --pictures 100000 --stand-in  # a projection in place of the network: statistics alone

Pictures are written as PNG and read back; of the second set a tenth as many.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from viewfold.device import find_device, peak_memory_mib
from viewfold.evaluation.distribution import Statistics, gather, measure_fidelity
from viewfold.evaluation.encoder import Encoded, Encoder
from viewfold.evaluation.pretrained import load_encoder
from viewfold.evaluation.source import read_pictures
from viewfold.picture import to_pil

SIZE, WIDTH, CLASSES = 64, 1280, 1000


class Projection:
    """As wide as the network, and quick: what is left is reading and statistics."""

    name = "stand-in"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(192, WIDTH, generator=generator) / 14
        self.logits = torch.randn(WIDTH, CLASSES, generator=generator) / 36

    def encode(self, rgb: Float[Tensor, "b 3 h w"]) -> Encoded:
        """Return features of an 8 x 8 picture."""
        features = (torch.nn.functional.adaptive_avg_pool2d(rgb, 8).flatten(1) @ self.features).relu()
        return Encoded(features, features @ self.logits)


def write(folder: Path, count: int, *, seed: int, blur: int) -> None:
    """Write pictures of coloured clouds."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        coarse = torch.rand(1, 3, blur, blur, generator=generator)
        cloud = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
        to_pil(cloud[0]).save(folder / f"{index:06d}.png", compress_level=1)


def timed(folder: Path, encoder: Encoder, seconds: dict[str, float]) -> tuple[Statistics, float]:
    """Return the statistics of a folder, and how long they took."""
    began = time.perf_counter()

    def skip(name: str, reason: str) -> None:
        raise SystemExit(f"{name}: {reason}")

    found = gather(read_pictures(folder, skip=skip), encoder, skip=skip, seconds=seconds)
    return found, time.perf_counter() - began


def by_scipy(made: Float[Tensor, "m d"], real: Float[Tensor, "n d"]) -> float:
    """Return FID as its authors' code does: a matrix square root in double precision."""
    import numpy as np
    from scipy.linalg import sqrtm

    a, b = made.double().numpy(), real.double().numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(np.asarray(sqrtm(s @ t)))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--no-scipy", action="store_true", help="leave the comparison with scipy out (10 s)")
    options = parser.parse_args()
    device, n = find_device(options.device), options.pictures
    encoder = Projection() if options.stand_in else load_encoder("efficientnet-lite0", device=device)
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary) / "real", n // 10, seed=0, blur=6)
        write(Path(temporary) / "made", n, seed=1, blur=5)
        seconds: dict[str, float] = {}
        real, first = timed(Path(temporary) / "real", encoder, seconds)
        print(f"{real.n} pictures: {first:.1f} s, peak {peak_memory_mib()} MiB", flush=True)
        made, second = timed(Path(temporary) / "made", encoder, seconds)
        print(f"{made.n} pictures: {second:.1f} s, peak {peak_memory_mib()} MiB", flush=True)
    began = time.perf_counter()
    found = measure_fidelity(made, real)
    computed = time.perf_counter() - began
    total = first + second + computed
    sums = first + second - sum(seconds.values())
    for name, spent in (*seconds.items(), ("sums", sums), ("FID, KID, IS", computed)):
        print(f"  {name:<13} {spent:7.1f} s  {spent / total:5.1%}  {1000 * spent / (n + n // 10):6.2f} ms a picture")
    print(f"  peak with FID and KID {peak_memory_mib()} MiB")
    for label, value in found.figures().items():
        print(f"  {label}: {value:.6g}")
    if not options.no_scipy and len(made.features()) == made.n and found.fid is not None:
        began = time.perf_counter()
        wanted = by_scipy(made.features(), real.features())
        print(f"  FID / scipy's: {found.fid / wanted:.9f} (scipy: {time.perf_counter() - began:.1f} s)")


if __name__ == "__main__":
    main()
