"""The house stays one that can be read: short functions, few positional arguments, no circle, no loose module."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("tokenbuncher", "pipelines", "components")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
OWN_CLASSES = {node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
LONGEST = 40
"""Lines of code of a function, without its docstring."""
POSITIONAL = 3
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that are neither blank nor comments."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}


def docstring_lines(function: Function) -> set[int]:
    first = function.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return set(range(first.lineno, (first.end_lineno or 0) + 1)) if is_text else set()


def length(function: Function, code: set[int]) -> int:
    """Lines of code of a function, its signature included."""
    return len((code - docstring_lines(function)) & set(range(function.lineno, (function.end_lineno or 0) + 1)))


def functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


@pytest.mark.parametrize("module", TREES)
def test_every_function_is_read_in_one_look(module: str) -> None:
    code = code_lines(MODULES[module].read_text(encoding="utf-8"))
    long = {function.name: length(function, code) for function in functions(TREES[module])}
    assert {name: lines for name, lines in long.items() if lines > LONGEST} == {}


def test_docstrings_comments_and_blank_lines_are_no_code() -> None:
    source = 'def f(a,\n      b):\n    """One.\n\n    Two.\n    """\n    # why\n\n    return """x\n\ny"""\n'
    (function,) = functions(ast.parse(source))
    assert length(function, code_lines(source)) == 5


def is_called_by_name(function: Function) -> bool:
    """Whether click or kfp calls it, by the names of its options or inputs."""
    called = [each.func if isinstance(each, ast.Call) else each for each in function.decorator_list]
    return any(isinstance(each, ast.Attribute) and each.attr in ("command", "component", "pipeline") for each in called)


def is_of_a_library(owner: ast.ClassDef | None) -> bool:
    """Whether a class builds on one from elsewhere, which decides what its methods take."""
    bases = owner.bases if owner else []
    return any(ast.unparse(base).rpartition(".")[2] not in OWN_CLASSES | {"NamedTuple", "BaseModel"} for base in bases)


def positional(function: Function, owner: ast.ClassDef | None) -> int:
    is_static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in function.decorator_list)
    taken = len(function.args.posonlyargs) + len(function.args.args)
    return taken - (1 if owner and not is_static else 0)


def public_functions(
    body: list[ast.stmt], owner: ast.ClassDef | None = None
) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body, node)
        elif isinstance(node, Function) and (not node.name.startswith("_") or node.name == "__init__"):
            yield node, owner


@pytest.mark.parametrize("module", TREES)
def test_arguments_are_named_from_the_fourth_on(module: str) -> None:
    many = {
        f"{owner.name}.{function.name}" if owner else function.name: positional(function, owner)
        for function, owner in public_functions(TREES[module].body)
        if not is_called_by_name(function) and not is_of_a_library(owner)
    }
    assert {name: count for name, count in many.items() if count > POSITIONAL} == {}


@pytest.mark.parametrize("room", ["tokenbuncher"])
def test_no_module_lies_loose_beside_the_rooms(room: str) -> None:
    assert {path.name for path in (ROOT / room).glob("*.py")} <= {"__init__.py", "__main__.py"}


def imported(module: str) -> set[str]:
    """The modules of the house that a module imports, also within functions and for types alone."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {module_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {module_of(f"{node.module}.{alias.name}") for alias in node.names}
    return found - {"", module}


def module_of(name: str) -> str:
    """The module that a dotted name is of; empty if it is none of the house."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules of which each leads to each."""
    reached = {module: reachable(module, arrows) for module in arrows}
    groups = ({other for other in reached[module] if module in reached[other]} for module in arrows)
    return [set(group) for group in {frozenset(group) for group in groups if group}]


def reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    left = list(arrows[start])
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += arrows[module]
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({module: imported(module) for module in TREES}) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
