"""Check whether a chat template only prints contents and does nothing else with them.

Then the text around contents depends on the roles alone, and not every row must be rendered. Code
that is not known to be harmless counts as code that looks into contents.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes

# These may change or store the text that is printed inside them.
_CAPTURING = (
    nodes.FilterBlock,
    nodes.AssignBlock,
    nodes.CallBlock,
    nodes.Macro,
    nodes.Block,
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
)
_Path = tuple[nodes.Node, ...]  # from a node's parent up to the template


def only_prints_contents(template: nodes.Template) -> bool:
    """Whether it only prints contents. `template`: as jinja parsed it."""
    every = list(_walk(template, ()))
    loops = [n for n, _ in every if isinstance(n, nodes.For) and _is_name(n.iter, "messages")]
    if not all(isinstance(loop.target, nodes.Name) and not loop.recursive for loop in loops):
        return False
    turns = {loop.target.name for loop in loops if isinstance(loop.target, nodes.Name)}
    return all(_is_harmless(node, path, turns) for node, path in every)


def _walk(node: nodes.Node, path: _Path) -> Iterator[tuple[nodes.Node, _Path]]:
    yield node, path
    for child in node.iter_child_nodes():
        yield from _walk(child, (node, *path))


def _is_harmless(node: nodes.Node, path: _Path, turns: set[str]) -> bool:
    if isinstance(node, _CAPTURING):
        return False
    if isinstance(node, (nodes.Getattr, nodes.Getitem)):
        return _field(node) not in ("previtem", "nextitem")
    if not isinstance(node, nodes.Name):
        return True
    parent = path[0]
    if node.name == "messages" and node.ctx == "load":
        if isinstance(parent, nodes.For) and parent.iter is node:
            return True
        if not isinstance(parent, nodes.Getitem) or parent.node is not node:
            return False
        return isinstance(_constant(parent), int) and _reads_a_field(parent, path[1:])
    if node.name in turns and node.ctx == "load":
        return _reads_a_field(node, path)
    if node.name in turns or node.name == "messages":  # bound once more
        return node.name != "messages" and isinstance(parent, nodes.For) and parent.target is node
    return True


def _reads_a_field(turn: nodes.Node, path: _Path) -> bool:
    """Whether `turn` is followed by a field's name; if that is content, it must be printed."""
    access = path[0]
    if not isinstance(access, (nodes.Getattr, nodes.Getitem)) or access.node is not turn:
        return False
    name = _field(access)
    if name is None or hasattr(dict, name):
        return False
    return name != "content" or _is_printed(path[1:])


def _is_printed(path: _Path) -> bool:
    for parent in path:
        if isinstance(parent, nodes.Output):
            return True
        trims = isinstance(parent, nodes.Filter) and parent.name == "trim" and not parent.args
        if not (trims or isinstance(parent, (nodes.Add, nodes.Concat))):
            return False
    return False


def _field(node: nodes.Getattr | nodes.Getitem) -> str | None:
    name = node.attr if isinstance(node, nodes.Getattr) else _constant(node)
    return name if isinstance(name, str) else None


def _constant(node: nodes.Getitem) -> object:
    return node.arg.value if isinstance(node.arg, nodes.Const) else None


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name
