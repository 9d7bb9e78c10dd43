"""Whether a value that a forward reads into Python can only raise an error there."""

import ast
import functools
import inspect
import itertools
import sys
import textwrap
from types import CodeType, FrameType

Span = tuple[tuple[int, int], tuple[int, int]]  # line and column of the start and of the end


def only_raises() -> bool:
    """Whether the expression that reads a value decides an assertion, or an `if` that raises.

    Such a statement changes nothing but ends the forward, so every input that passes takes the
    same path. Where the source is not known, an expression counts as a branch.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _internal(frame):
        frame = frame.f_back
    if frame is None:
        return False
    position = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    if position is None or None in position:
        return False
    line, last, column, end = position
    return any(a <= (line, column) and (last, end) <= b for a, b in _raising(frame.f_code))


def _internal(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.startswith(("alprune.pruning.graph", "torch.overrides", "torch._tensor"))


@functools.lru_cache(maxsize=1024)
def _raising(code: CodeType) -> tuple[Span, ...]:
    """Return where a function has assertions, and conditions under which it only raises."""
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError, IndexError):
        return ()
    down, right = max(first, 1) - 1, len(lines[0]) - len(lines[0].lstrip())
    spans: list[Span] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            spans.append(_span(node, down, right))
        elif isinstance(node, ast.If) and not node.orelse and isinstance(node.body[-1], ast.Raise):
            spans.append(_span(node.test, down, right))
    return tuple(spans)


def _span(node: ast.Assert | ast.expr, down: int, right: int) -> Span:
    last, end = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
    return (node.lineno + down, node.col_offset + right), (last + down, end + right)
