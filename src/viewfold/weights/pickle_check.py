"""Check the pickle opcodes of a PyTorch file before torch executes them.

Below `checkpoint`.  torch's own `weights_only` reader runs no code, but it calls what it knows with any arguments.
Tried with torch 2.13: a pickle of 0.9 kB asks it for 64 GB; over one of 1.3 kB (a key of tuples of tuples) it hangs.
picklescan 1.0.5, modelscan 0.8.8 and torch's `get_unsafe_globals_in_checkpoint` look for names of code and report
neither; fickling 0.1.12 calls the second safe, and every checkpoint that torch writes unsafe.  Weights need a dozen
names and short tuples; the rest is refused here.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass
from typing import Any

from viewfold import limits
from viewfold.errors import WeightsError

ALLOWED = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils (_rebuild_tensor|_rebuild_tensor_v2|_rebuild_tensor_v3|_rebuild_parameter)"
    r"|torch (\w+Storage|Size|device|(b?float|u?int|complex)\d+|bool)"
    r"|torch\.storage \w+Storage"
    r"|(builtins|__builtin__) set"
)
"""What weights, and the numbers that training keeps beside them, are made of."""

_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
_PLAIN = ("int", "bool", "str", "bytes", "float", "None", "int_or_bool", "bytes_or_str")


@dataclass(frozen=True, slots=True)
class _Item:
    """What is known of a value: whether it is a name or a plain value, and how many items it holds."""

    kind: str
    items: int = 1


_MARK, _OTHER, _NAME, _VALUE = _Item("mark"), _Item("other"), _Item("name"), _Item("plain")


def check_pickle(file: Any, *, name: str) -> None:
    """Follow the instructions of one pickle without doing what they say; the binary `file` stands behind it afterwards.

    Raises:
        WeightsError: it names something that weights do not need, or holds something that could take forever.
    """
    stack: list[_Item] = []
    memo: dict[Any, _Item] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > limits.PICKLE_OPCODES:
                raise WeightsError(
                    f"`path` must hold tensors by name; {name} has more than {limits.PICKLE_OPCODES} instructions."
                )
            if opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                _check_name(str(argument or opcode.name), name)
            _follow(opcode, argument, stack, memo, name)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise WeightsError(
            f"`path` must be a whole PyTorch file; {name} is damaged or cut short. Download it again."
        ) from error


def _check_name(called: str, name: str) -> None:
    if not ALLOWED.fullmatch(called):
        raise WeightsError(
            f"`path` must hold plain tensors; {name} would run code when opened: "
            f"GLOBAL {called[:120].replace(' ', '.')}. Do not open it otherwise unless you trust its author; ask for a "
            ".safetensors file."
        )


def _follow(opcode: Any, argument: Any, stack: list[_Item], memo: dict[Any, _Item], name: str) -> None:
    """Change the stack as an instruction does."""
    if opcode.name in _PUTS:
        memo[argument] = stack[-1]
        return
    if opcode.name in _GETS:
        stack.append(memo[argument])
        return
    taken = _take(opcode, stack)
    match opcode.name:
        case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "EMPTY_TUPLE":
            items = 1 + sum(item.items for item in taken)
            if items > limits.PICKLE_TUPLE_ITEMS:
                raise WeightsError(f"`path` must hold tensors by name; {name} holds a tuple of {items} items.")
            plain = all(item.kind in ("plain", "name") for item in taken)
            stack.append(_Item("flat" if plain else "tuple", items))
        case "DUP":
            stack += [*taken, *taken]
        case "REDUCE" | "NEWOBJ" if taken[0].kind != "name":
            raise WeightsError(f"`path` must hold plain tensors; {name} calls a value. Ask for a .safetensors file.")
        case "BINPERSID" | "PERSID" if taken and taken[0].kind != "flat":
            raise WeightsError(f"`path` must hold plain tensors; {name} names a storage by a container.")
        case "GLOBAL":
            stack.append(_NAME)
        case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS" | "ADDITEMS" | "BUILD":
            stack.append(taken[0])
        case _:
            for pushed in opcode.stack_after:
                plain = pushed.name in _PLAIN
                stack.append(_MARK if pushed.name == "mark" else _VALUE if plain else _OTHER)


def _take(opcode: Any, stack: list[_Item]) -> list[_Item]:
    """Take off the stack what an instruction uses, in order; of a slice, its items without the mark."""
    names = [before.name for before in opcode.stack_before]
    taken: list[_Item] = []
    if "stackslice" in names or names == ["mark"]:
        while (item := stack.pop()).kind != "mark":
            taken.append(item)
        taken.reverse()
        names = names[: names.index("mark")]
    return [stack.pop() for _ in names][::-1] + taken
