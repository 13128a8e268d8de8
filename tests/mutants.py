"""Plausible mistakes of one source text: signs, axes, swapped arguments, dropped statements and options, bounds.

For `mutate`, which runs the tests on each.  A mistake is a change of a few characters found by the syntax tree; what
is not behaviour is left alone: annotations, docstrings, messages of errors, assertions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

COMPARISONS = {"<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "==": ("!=",), "!=": ("==",)}
COMPARISONS |= {"is": ("is not",), "is not": ("is",), "in": ("not in",), "not in": ("in",)}
SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
SIGNS |= {ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}
OPERATORS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*")}
OPERATORS |= {ast.FloorDiv: ("//", "%"), ast.Mod: ("%", "//"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&")}

PAIRS = [("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("any", "all"), ("floor", "ceil"), ("sin", "cos")]
PAIRS += [
    ("mean", "sum"),
    ("maximum", "minimum"),
    ("deg2rad", "rad2deg"),
    ("degrees", "radians"),
    ("clamp_min", "clamp_max"),
]
PAIRS += [("ones_like", "zeros_like"), ("zeros", "ones"), ("new_zeros", "new_ones"), ("exp", "expm1"), ("log", "log1p")]
RENAMED = {a: b for a, b in PAIRS} | {b: a for a, b in PAIRS} | {"std": "var", "round": "floor", "norm": "sum"}

DROPPED = {"clamp", "clamp_", "round", "flip", "abs", "sqrt", "square", "strip", "lower", "casefold", "cumsum", "sort"}
DROPPED |= {"double", "float", "unique", "clone", "deepcopy", "normalize", "sorted", "reversed", "resolve", "T", "mT"}
"""Calls and attributes that may be forgotten: `x.clamp(0, 1)` becomes `x`, `sorted(x)` becomes `x`."""


LITERAL = (ast.Tuple, ast.List, ast.Constant, ast.Dict, ast.Lambda)
"""Nobody takes one of these for a name, so the two are not swapped."""


@dataclass(frozen=True)
class Mutant:
    """One changed source text, and the line that differs."""

    line: int
    before: str
    after: str
    source: str


def mutants(source: str, package: Path) -> list[Mutant]:
    """Return every mutant of a source text, in its order; `package` is where required arguments are looked up."""
    tree, lines = ast.parse(source), source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    data, found, seen = source.encode(), [], set()
    required = required_names(package)
    for node in behaviour(tree):
        for place, text in changes(node, data, starts, required):
            changed = data[: place.start] + text.encode() + data[place.stop :]
            try:
                ast.parse(changed)
            except SyntaxError:
                continue
            if changed == data or changed in seen:
                continue
            seen.add(changed)
            row = data[: place.start].count(b"\n")
            before, after = (
                shown(data, place.start, place.stop),
                shown(changed, place.start, place.start + len(text.encode())),
            )
            found.append(Mutant(line=row + 1, before=before, after=after, source=changed.decode()))
    return sorted(found, key=lambda mutant: mutant.line)


def shown(data: bytes, start: int, stop: int) -> str:
    """Return the whole lines about a place as one."""
    first, end = data.rfind(b"\n", 0, start) + 1, data.find(b"\n", stop)
    return " ".join(data[first : end if end >= 0 else None].decode().split())


def behaviour(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that decide what is computed; a function marks the names in it by `of`."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment", "bases", "names"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(node, ast.ExceptHandler) and name == "type" or isinstance(node, ast.While) and name == "test":
                continue  # the order of kinds says nothing, and a loop that never ends is no mistake that stays
            child.of = child if isinstance(child, ast.FunctionDef) else getattr(node, "of", None)  # type: ignore[attr-defined]
            yield child
            yield from behaviour(child)


@cache
def required_names(package: Path) -> dict[str, frozenset[str]]:
    """Return, by the name of a function or class, the keywords that cannot be left out: dropping them is no mistake."""
    found: dict[str, frozenset[str]] = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                names = {a.arg for a, default in pairs if default is None}
                names |= {a.arg for a in node.args.args[: len(node.args.args) - len(node.args.defaults)]}
                found[node.name] = found.get(node.name, frozenset()) | names
            elif isinstance(node, ast.ClassDef):
                fields = {s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and s.value is None}  # type: ignore[union-attr]
                found[node.name] = found.get(node.name, frozenset()) | fields
    return found


def changes(
    node: ast.AST, data: bytes, starts: list[int], required: dict[str, frozenset[str]]
) -> Iterator[tuple[slice, str]]:
    """Yield what a node may be mistaken for: the place and the text that stands there instead."""

    def at(child: ast.AST) -> slice:
        return slice(
            starts[child.lineno - 1] + child.col_offset,  # type: ignore[attr-defined]
            starts[child.end_lineno - 1] + child.end_col_offset,  # type: ignore[attr-defined]
        )

    def text(child: ast.AST) -> str:
        return data[at(child)].decode()

    def between(left: ast.AST, right: ast.AST, sign: str) -> slice:
        first = data.index(sign.encode(), at(left).stop, at(right).start)
        return slice(first, first + len(sign))

    match node:
        case ast.Compare(left=left, ops=ops, comparators=others):
            for a, op, b in zip([left, *others[:-1]], ops, others, strict=True):
                sign = SIGNS[type(op)]
                for other in COMPARISONS[sign]:
                    yield between(a, b, sign), other
        case ast.BinOp(left=a, op=op, right=b) if type(op) in OPERATORS:
            sign, other = OPERATORS[type(op)]
            yield between(a, b, sign), other
        case ast.BinOp(left=a, op=ast.MatMult(), right=b):
            yield at(node), f"({text(b)}) @ ({text(a)})"
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=inner):
            yield at(node), text(inner)
        case ast.BoolOp(op=op, values=values):
            sign = "and" if isinstance(op, ast.And) else "or"
            yield between(values[0], values[1], sign), "or" if sign == "and" else "and"
            for value in values:
                yield at(value), "True" if sign == "and" else "False"
        case ast.IfExp(test=_, body=body, orelse=orelse):
            yield at(node), text(body)
            yield at(node), text(orelse)
        case ast.If(test=test, body=body):
            yield at(test), "False"
            if not isinstance(body[-1], ast.Raise):
                yield at(test), "True"
        case ast.Constant(value=bool() as value):
            yield at(node), str(not value)
        case ast.Constant(value=int() as value):
            yield at(node), str(value + 1)
            if value > 0:
                yield at(node), str(value - 1)
        case ast.Constant(value=float() as value):
            yield at(node), repr(value * 2 if value else 1.0)
            yield at(node), repr(value / 2 if value else 0.5)
        case ast.Tuple(elts=[a, b, *_]) if isinstance(node.ctx, ast.Load) and not tells_no_order(a):
            yield slice(at(a).start, at(b).stop), f"{text(b)}, {text(a)}"
        case ast.Attribute(value=inner, attr=name) if name in ("T", "mT"):
            yield at(node), text(inner)
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield at(node), "pass"
        case ast.Assign(targets=[ast.Name()], value=ast.Call(func=ast.Name(id="Path"))):
            pass  # what is a path already stays one
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in names_in(value):
            yield at(node), "pass"
        case ast.Assign(targets=[ast.Subscript()]):
            yield at(node), "pass"
        case ast.Name(ctx=ast.Load(), id=name):
            for other in neighbours(node, name):
                yield at(node), other
    if isinstance(node, ast.Call):
        yield from changes_of_call(node, at, text, required)


def changes_of_call(node: ast.Call, at, text, required) -> Iterator[tuple[slice, str]]:  # type: ignore[no-untyped-def]
    """Yield changes of a call: its name, the order of its arguments, an option that is forgotten, the call itself."""
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name in RENAMED:
        yield slice(at(node.func).stop - len(name), at(node.func).stop), RENAMED[name]
    if name in DROPPED:
        inner = node.args[0] if node.args and not is_method(node) else getattr(node.func, "value", None)
        if inner is not None:
            yield at(node), text(inner)
    for a, b in zip(node.args, node.args[1:], strict=False):
        if isinstance(a, LITERAL) == isinstance(b, LITERAL):
            yield slice(at(a).start, at(b).stop), f"{text(b)}, {text(a)}"
    for keyword in node.keywords:
        if keyword.arg in (None, "device", *required.get(name, ())) or name == "dataclass":
            continue  # without a second device, where a tensor is says nothing
        inside = [*node.args, *node.keywords]
        if len(inside) == 1:
            yield at(keyword), ""
        elif keyword is inside[-1]:
            yield slice(at(inside[-2]).stop, at(keyword).stop), ""
        else:
            following = inside[inside.index(keyword) + 1]
            yield slice(at(keyword).start, at(following).start), ""


def is_method(node: ast.Call) -> bool:
    """Say whether a call is x.f(...) of a value x rather than module.f(...)."""
    value = getattr(node.func, "value", None)
    return value is not None and not (
        isinstance(value, ast.Name) and value.id in ("torch", "np", "math", "copy", "functional")
    )


def tells_no_order(first: ast.AST) -> bool:
    """Say whether a tuple is a list of names or of rows, by its first element: those are looked through."""
    return isinstance(first, ast.Tuple) or isinstance(first, ast.Constant) and isinstance(first.value, str)


def names_in(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def neighbours(node: ast.Name, name: str) -> list[str]:
    """Return the names that one is easily mistaken for: beside it in the arguments or in an assignment of several."""
    function = getattr(node, "of", None)
    if function is None:
        return []
    arguments = [*function.args.args, *function.args.kwonlyargs]
    kinds = {
        a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in arguments if a.arg not in ("self", "cls")
    }
    rows = [[other for other in kinds if kinds[other] == kinds[name]]] if name in kinds else []
    for child in ast.walk(function):
        if isinstance(child, ast.Tuple) and isinstance(child.ctx, ast.Store):
            rows.append([e.id for e in child.elts if isinstance(e, ast.Name)])
    return [row[(row.index(name) + 1) % len(row)] for row in rows if name in row and len(row) > 1][:1]
