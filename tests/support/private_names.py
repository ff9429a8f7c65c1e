"""Which private names of torch a file has, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

# Modules of torch that may change without notice, although their names do not say so.
UNSTABLE = ("torch.fx.experimental", "torch.fx.config")
# Private names of Python's own that the library reads.
OF_PYTHON = {"sys._getframe": "the frame of a caller", "new._fields": "the fields of a node of an AST"}
# By these names a class calls itself; what they have is its own.
OWNERS = (("self",), ("cls",))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def chain_of(node: ast.expr) -> tuple[str, ...]:
    """`a.b.c` as its names; empty for what does not begin with a name."""
    if isinstance(node, ast.Name):
        return (node.id,)
    inner = chain_of(node.value) if isinstance(node, ast.Attribute) else ()
    return (*inner, node.attr) if inner and isinstance(node, ast.Attribute) else ()


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that a file gives to torch and to what it imports from it, each with the full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def own_names(tree: ast.AST) -> Iterator[str]:
    """The private attributes that classes and modules of a file have."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def private_uses(source: str) -> list[str]:
    """The private names of torch that a file has from torch itself, and those that objects are asked for."""
    tree = ast.parse(source)
    homes = {name: full for name, full in imported(tree) if full.partition(".")[0] == "torch"}
    full_names = [*homes.values()]
    own = set(own_names(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute():
                chain = chain_of(node)
                if chain and chain[0] in homes:
                    home = homes[chain[0]] if chain[0] != "torch" else "torch"
                    full_names.append(".".join((home, *chain[1:])))
                elif is_private(node.attr) and node.attr not in own and chain[:1] not in OWNERS:
                    full_names.append(ast.unparse(node))
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=[_, name, *_]):
                text = name.values[0] if isinstance(name, ast.JoinedStr) else name
                if isinstance(text, ast.Constant) and is_private(str(text.value)):
                    full_names.append(ast.unparse(node))
    private = (
        n
        for n in full_names
        if not n.startswith("torch") or n.startswith(UNSTABLE) or any(map(is_private, n.split(".")))
    )
    return sorted(set(private) - OF_PYTHON.keys())
