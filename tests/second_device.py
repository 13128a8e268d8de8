"""A second device without a GPU: tensors that say "lazy", hold CPU values, and refuse what CUDA refuses.

    with second_device() as device:          inside, `device=` and `.to(device)` make such tensors
        move(model, device)                  put a module's, or a pipeline's, parameters and buffers there
        run(model)                           RuntimeError where tensors of two devices, or a CPU generator and it, meet
    with second_device(waits) as device:     `waits`, a list, gets the name of each call that made the host wait

    on(device, thing)                        whether a tensor, or all tensors of a module or optimiser, are there

Load models before entering: loaders build on the device "meta", which is left alone.  As with CUDA, a tensor without
dimensions may come from the host, and so may an index; copies go both ways.  Values are computed by the CPU, so results
are the CPU's, but for the rounding of a few kernels that autograd chooses by device.  "lazy" is a type of device that
PyTorch knows and nobody uses: "cuda" without its library has no autograd.  Not covered: generators of the device,
streams, autocast (allowed, does nothing), what only kernels check.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

HERE = torch.device("lazy")
aten = torch.ops.aten

_ACROSS = {aten.copy_, aten._to_copy, aten._foreach_copy_, aten.set_}
"""Calls in which tensors of two devices may meet."""

_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Calls whose indices may lie on the host."""

_WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.unique_consecutive, aten._unique2}
"""Calls whose result, or its size, the host must know before it goes on."""

_FROM_HOST = (torch.tensor, torch.as_tensor, torch.asarray)
"""Factories that never reach the dispatcher with their device."""


class Elsewhere(Tensor):
    """A tensor of the second device; `held` is a CPU tensor with its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=HERE, requires_grad=False
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Save as a CPU tensor: what `map_location="cpu"` makes of a CUDA one."""
        return self.held.detach().__reduce_ex__(protocol)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {}, None)


class _Dispatch(TorchDispatchMode):
    def __init__(self, waits: list[str] | None) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {}, self.waits)


class _Function(TorchFunctionMode):
    """What makes a tensor of host data goes by way of the host."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _FROM_HOST and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.tolist:  # torch refuses it for subclasses
            args = (args[0].cpu(),)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(part or [0])[: len(part)] if isinstance(part, list) else part for part in index)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


@contextlib.contextmanager
def second_device(waits: list[str] | None = None) -> Iterator[torch.device]:
    """Yield the second device; see the top of the file."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.autocast, "__init__", _autocast))
        stack.enter_context(_Dispatch(waits))
        stack.enter_context(_Function())
        yield HERE


def _autocast(self: Any, device_type: str, *args: Any, **options: Any) -> None:
    """Accept the device for `torch.autocast`, which then does nothing."""
    if device_type == HERE.type:
        device_type, args, options = "cpu", (), {"enabled": False}
    _autocast_of_torch(self, device_type, *args, **options)


_autocast_of_torch = torch.autocast.__init__


def move(thing: Any, device: torch.device) -> Any:
    """Replace the parameters and buffers of a module, or of each network of a pipeline, by ones on the device."""
    modules = [part for part in getattr(thing, "components", {"": thing}).values() if isinstance(part, nn.Module)]
    moved: dict[int, Tensor] = {}
    for module in (inner for outer in modules for inner in outer.modules()):
        for held in (module._parameters, module._buffers):
            for name, tensor in list(held.items()):
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    there = tensor.detach().to(device)
                    again = nn.Parameter(there, tensor.requires_grad) if held is module._parameters else there
                    moved[id(tensor)] = again
                held[name] = moved[id(tensor)]
    return thing


def on(device: torch.device, thing: Any) -> bool:
    """Return whether a tensor, or every tensor of a module or of an optimiser with dimensions, is on the device."""
    match thing:
        case nn.Module():
            tensors = [*thing.parameters(), *thing.buffers()]
        case torch.optim.Optimizer():
            tensors = [t for t in tree_leaves(thing.state_dict()) if isinstance(t, Tensor) and t.ndim > 0]
        case _:
            tensors = [t for t in tree_leaves(thing) if isinstance(t, Tensor)]
    return all(tensor.device == device for tensor in tensors)


def _compute(func: Any, args: Any, kwargs: dict[str, Any], waits: list[str] | None) -> Any:
    """Run a call on the CPU values, and put the result on the device that its arguments or its `device=` say."""
    flat, packet, asked = tree_leaves((args, kwargs)), func.overloadpacket, kwargs.get("device")
    there = {id(leaf.held): leaf for leaf in flat if isinstance(leaf, Elsewhere)}
    wanted = bool(there) if asked is None else torch.device(asked).type == HERE.type
    if not there and not wanted:
        return func(*args, **kwargs)
    _check(func, packet, args, flat)
    if waits is not None and there and (packet in _WAITS or not wanted or (packet is aten.copy_ and _on_host(args[0]))):
        waits.append(str(func))
    if asked is not None:
        kwargs = kwargs | {"device": "cpu" if wanted else asked}
    host = {id(leaf) for leaf in flat if _on_host(leaf)}  # what came from the host in place stays there
    args, kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Elsewhere) else leaf, (args, kwargs))
    out = func(*args, **kwargs)
    if not wanted:
        return out
    return tree_map(
        lambda leaf: (
            (there[id(leaf)] if id(leaf) in there else Elsewhere(leaf))
            if isinstance(leaf, Tensor) and id(leaf) not in host
            else leaf
        ),
        out,
    )


def _check(func: Any, packet: Any, args: Any, flat: list[Any]) -> None:
    """Refuse what a device refuses, where one of the arguments, or the result, is on it."""
    if any(isinstance(leaf, torch.Generator) for leaf in flat):
        raise RuntimeError(f"{func}: expected a '{HERE.type}' device type for generator but found 'cpu'")
    if packet in _ACROSS:
        return
    if packet in _INDEXED and isinstance(args[0], Elsewhere):
        flat = tree_leaves((args[0], args[2:]))
    strangers = [tuple(leaf.shape) for leaf in flat if _on_host(leaf) and leaf.ndim > 0]
    in_place = packet.__name__.endswith("_") and _on_host(args[0])
    if strangers or in_place:
        raise RuntimeError(f"{func}: expected all tensors on one device; found {HERE} and cpu, of shapes {strangers}")


def _on_host(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, Elsewhere)
