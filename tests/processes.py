"""What two real processes do, started by tests/test_processes.py: python processes.py SCENARIO OUT.

Each process writes what it saw to OUT/SCENARIO-RANK.pt.  With WORLD_SIZE unset the same scenario runs in one process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from viewfold.errors import ViewfoldError
from viewfold.training import parallel
from viewfold.training.loop import fit
from viewfold.training.optimizer import Optimizer
from viewfold.training.ranks import Ranks
from viewfold.training.run import Checked
from viewfold.training.settings import LoopSettings

WORLD = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
SETTINGS = LoopSettings(steps=6, lr=0.02, warmup=2, precision="fp32", ema=0.8, accumulate=2 // WORLD)
"""Two batches a step: one of each of two processes, or both of one."""


class Blocks(nn.Module):
    """A network with a list of modules, of which FSDP makes units of their own, and odd sizes, which shard unevenly."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 5)])
        self.leave = nn.Linear(5, 1)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.leave(x) * self.scale


def network() -> Blocks:
    torch.manual_seed(RANK)  # each process its own: what a run without a seed would do
    made = Blocks()
    made.scale += RANK  # and its own buffers
    return made


def draw(step: int, generator: torch.Generator) -> Tensor:
    return torch.randn(8, 5, generator=generator)


def train(out: Path, *, settings: LoopSettings = SETTINGS, draw: Any = draw, **options: Any) -> dict[str, Any]:
    """Train; return the weights after every step, as this process has them, and the result."""
    net, steps = network(), []
    inner = Optimizer.step

    def step(self: Optimizer, lr: float) -> None:
        inner(self, lr)
        steps.append({name: _whole(p.detach()).clone() for name, p in net.named_parameters()})

    def loss(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": (net(x) - x.sum(-1, keepdim=True)).square().mean()}

    with mock.patch.object(Optimizer, "step", step):
        trained = fit(net, draw, loss, out, settings=settings, **options)
    return {"steps": steps, "result": trained.network.state_dict(), "report": trained.report["decides"]}


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def ddp(out: Path) -> dict[str, Any]:
    return train(out / f"ddp-{WORLD}", samples=8)


def adamw(out: Path) -> dict[str, Any]:
    return train(out / f"adamw-{WORLD}", settings=replace(SETTINGS, optimizer="adamw"))


def four_parts(out: Path) -> dict[str, Any]:
    """Four batches a step: two of each of two processes, or all of one."""
    settings = replace(SETTINGS, optimizer="adamw", accumulate=4 // WORLD)
    return train(out / f"four_parts-{WORLD}", settings=settings)


def resumed(out: Path) -> dict[str, Any]:
    train(out / "resumed", settings=replace(SETTINGS, steps=3))
    return train(out / "resumed")


def fsdp(out: Path) -> dict[str, Any]:
    parallel.UNIT_PARAMETERS = 30
    settings = replace(SETTINGS, optimizer="adamw", parallel="fsdp")
    train(out / "fsdp", settings=replace(settings, steps=3))
    first = sorted(path.name for path in (out / "fsdp" / "checkpoint-00000003").iterdir())
    return train(out / "fsdp", settings=settings) | {"files": first}


def fsdp_whole(out: Path) -> dict[str, Any]:
    return train(out / "fsdp-whole", settings=replace(SETTINGS, optimizer="adamw", parallel="fsdp"))


def fsdp_checked(out: Path) -> dict[str, Any]:
    """The averages are looked at, by all processes and by a forward pass, and go away again."""
    settings = replace(SETTINGS, optimizer="adamw", parallel="fsdp", check_steps=2, precision="fp32")
    net = network()
    looked: list[Tensor] = []

    def look(done: int) -> Checked:
        looked.append(net(torch.ones(2, 5)).detach().clone())
        return Checked()

    with mock.patch.dict(globals(), network=lambda: net):
        result = train(out / "fsdp-checked", settings=settings, check=look)
    final = network_of(result["result"])(torch.ones(2, 5)).detach()
    return result | {"last_look": looked[-1], "final": final, "looks": len(looked)}


def network_of(weights: dict[str, Tensor]) -> Blocks:
    net = Blocks()
    net.load_state_dict(weights)
    return net


def apart(out: Path) -> dict[str, Any]:
    """The processes see different folders, and only the first one's has a checkpoint."""
    folder = out / f"apart-{RANK}"
    train(folder, settings=replace(SETTINGS, steps=2))
    return train(folder)


def fsdp_bf16(out: Path) -> dict[str, Any]:
    return train(out / "bf16", settings=replace(SETTINGS, optimizer="adamw", parallel="fsdp", precision="bf16"))


def resharded(out: Path) -> dict[str, Any]:
    """One process goes on from what two had sharded."""
    settings = replace(SETTINGS, optimizer="adamw", steps=8)
    return train(out / "fsdp", settings=settings)


def uneven(out: Path) -> dict[str, Any]:
    """The time of the first process is over when the second has hardly begun."""

    def slow(step: int, generator: torch.Generator) -> Tensor:
        time.sleep(0.05 * RANK)
        return draw(step, generator)

    settings = replace(SETTINGS, steps=10_000, minutes=0.3 / 60 if RANK == 0 else 100.0, read_ahead=0)
    trained = train(out / "uneven", settings=settings, draw=slow)
    return {"steps": trained["steps"]}


def unet(out: Path, name: str = "unet", **loop: Any) -> dict[str, Any]:
    """The network itself, on a mix of objects and pictures, its initial weights from each process's own randomness."""
    from fakes import tiny_model, tiny_unet
    from tiny_shards import write_shards

    from viewfold.training.diffusion import DiffusionSettings, train_diffusion
    from viewfold.training.objective import ObjectiveSettings

    objects, pictures = out / f"objects-{RANK}", out / f"pictures-{RANK}"
    write_shards(objects)
    write_shards(pictures, posed=False)
    torch.manual_seed(RANK)
    net, model = tiny_unet(), tiny_model()
    settings = DiffusionSettings(
        batch=3, objective=ObjectiveSettings(share_2d=0.5), loop=replace(SETTINGS, steps=3, **loop)
    )
    gradients: list[dict[str, Tensor]] = []
    inner = Optimizer.step

    def step(self: Optimizer, lr: float) -> None:
        gradients.append({n: _whole(p.grad).clone() for n, p in net.named_parameters() if p.grad is not None})
        inner(self, lr)

    with mock.patch.object(Optimizer, "step", step):
        trained = train_diffusion(
            net, model.text, model.alphas_cumprod, out / f"{name}-{WORLD}", objects=objects, pictures=pictures,
            settings=settings,
        )  # fmt: skip
    network = trained.network.eval()
    if RANK == 0:
        network.save_pretrained(out / f"{name}-{WORLD}" / "saved")  # type: ignore[operator]
    drawn = network(torch.ones(1, 2, 4, 4, 4), 500, torch.ones(1, 3, 32), torch.ones(1, 2, 16))
    return {"gradients": gradients[0], "result": network.state_dict(), "drawn": drawn.detach()}


def unet_fsdp(out: Path) -> dict[str, Any]:
    parallel.UNIT_PARAMETERS = 500
    return unet(out, "unet-fsdp", parallel="fsdp", optimizer="adamw")


def subject(out: Path) -> dict[str, Any]:
    """DreamBooth: a low-rank copy of the network, with all of its terms."""
    from test_dreambooth import LOOP, learn
    from test_dreambooth import SETTINGS as ONE

    loop = replace(LOOP, steps=4, check_steps=2, accumulate=2 // WORLD)
    learned = learn(out / f"subject-{WORLD}", replace(ONE, preservation=1.0, forgetting=9.0, loop=loop))
    assert learned.low_rank is not None
    return {"result": {name: up for name, (_, up) in learned.low_rank.factors().items()}}


def killed(out: Path) -> dict[str, Any]:
    def fatal(step: int, generator: torch.Generator) -> Tensor:
        if step == 4 and RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(step, generator)

    return train(out / "killed", settings=replace(SETTINGS, steps=50, read_ahead=0), draw=fatal)


def main(names: str, folder: str) -> int:
    """Run scenarios one after the other; print what a command line would."""
    torch.set_num_threads(1)
    out = Path(folder)
    with Ranks.join():
        for name in names.split(","):
            try:
                torch.save(globals()[name](out), out / f"{name}-{WORLD}-{RANK}.pt")
            except ViewfoldError as error:
                print(f"viewfold: {error}", file=sys.stderr)
                return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
