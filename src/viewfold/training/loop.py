"""The training loop: steps, averaged weights, checkpoints; it does not know what it trains.

One process, or as many as `torchrun` starts.  A step has `parts` = processes x `accumulate`: part p of step s is drawn
from (seed, s, p) alone and the gradients of all parts are averaged.  So a resumed run continues exactly, and two
processes make the steps of one that accumulates two batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from viewfold.device import has_native_bfloat16
from viewfold.errors import OutputError, Stopped
from viewfold.stopping import listening
from viewfold.training.health import check_trainable
from viewfold.training.lock import alone
from viewfold.training.monitor import Progress
from viewfold.training.parallel import Loss
from viewfold.training.ranks import Ranks
from viewfold.training.run import Account, Check, Draw, Run, Trained
from viewfold.training.settings import LoopSettings
from viewfold.training.writers import Writer, WriterName, open_writers


def fit(
    network: nn.Module,
    draw: Draw,
    loss: Loss,
    out: str | Path,
    *,
    settings: LoopSettings,
    samples: int = 1,
    record: Mapping[str, Any] | None = None,
    override: bool = False,
    check: Check | None = None,
    account: Account | None = None,
    log: Iterable[WriterName | str] = (),
    progress: Progress | None = None,
) -> Trained:
    """Train a network where it is, from the newest checkpoint in `out` if there is one, and return it averaged.

    Ctrl-C, SIGTERM and SIGHUP end after the current step with a checkpoint; a second one ends at once.

    Args:
        network: with float32 weights; those that require no gradient stay as they are.
        draw: makes the batch of a part of a step, ahead and in threads (`settings.read_ahead`).  It is called before
            anything else is drawn from the generator.
        loss: on the network's device, in bfloat16 under autocast if the settings say so.
        out: gets checkpoint-STEP, log.jsonl, run.json and samples/.
        samples: in a batch, for the speed that is shown.
        record: whatever else decides what is trained (data, base model); a checkpoint with another one is refused.
        override: go on with these settings, whatever the checkpoint was made with.
        check: looks at the averages every `settings.check_steps`, and may end the run.
        account: tells at the end what else run.json says, of rank 0.
        log: writers besides log.jsonl.
        progress: called on rank 0 after each step.

    Raises:
        Stopped: by a signal.
        InputError: weights that cannot be trained, another run in this folder, a checkpoint of other settings.
        FitError: gradients or weights are not finite, or another process is gone.
        WeightsError: the checkpoint belongs to another network or is damaged.
        OutputError: the checkpoint cannot be written.
    """
    out = Path(out)
    device = next(network.parameters()).device
    if settings.precision == "auto":
        settings = replace(settings, precision="bf16" if has_native_bfloat16(device) else "fp32")
    ranks = Ranks.join(device)
    with alone(out, ranks), listening() as stop:
        check_trainable(network)
        run = Run(network, draw, loss, out, settings, ranks, samples=samples, record=record or {}, account=account)
        first = done = run.resume(override=override)
        writers: list[Writer] = []
        with ranks.together():
            writers = open_writers(log, out, run.record(first)) if ranks.lead else []
        batches = run.reading(first)
        try:
            for step in range(first, first if run.ended else settings.steps):
                figures = run.step(step, batches)
                done = step + 1
                scalars, stopped, due, over = run.agree(figures, stop)
                if ranks.lead:
                    for writer in writers:
                        writer.scalars(step, {"seconds": round(run.meter.elapsed_s, 2), **scalars})
                    if progress:
                        progress(run.meter.status(done, scalars))
                if check is not None and (done % settings.check_steps == 0 or done == settings.steps):
                    over |= run.look(check, done, writers)
                if due or stopped or over:
                    run.save(done)
                if stopped:
                    raise Stopped(stopped, saved=True)
                if over:
                    break
        except (OutputError, Stopped):
            raise
        except Exception:
            if done > first and not run.spread.sharded and not run.moving:
                run.save_alone(done)
            raise
        finally:
            batches.close()
            for writer in writers:
                writer.close()
        run.save(done)
        return run.finish(done)
