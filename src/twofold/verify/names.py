"""Do the names of an answer resolve? Imports, attributes of known libraries, variables and columns, read without running anything.

Only libraries of an allow-list are ever imported; any other module that an answer names is looked for and left alone.
"""

import ast
import builtins
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LIBRARIES = frozenset({"pandas", "numpy", "matplotlib", "seaborn", "sklearn", "scipy", "statsmodels"})
_GIVEN = frozenset({"display", "get_ipython", "__name__", "__file__", "__doc__", "_", "exit", "quit", *dir(builtins)})


@dataclass(frozen=True, slots=True)
class Fault:
    """A name that does not resolve."""

    kind: str
    """ "import", "attribute", "name" or "column"."""
    name: str
    """The name itself; for an attribute the dotted path from its library, such as numpy.NaN."""
    line: int
    reason: str
    frame: str = ""
    """For a column: the variable whose column it should be."""


def imports(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted path of what it was imported as, such as np -> numpy; names that are bound otherwise too are left out."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    stored |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return {name: path for name, path in found.items() if name not in stored and name != "*"}


def dotted(node: ast.expr, known: Mapping[str, str]) -> str:
    """The path of `np.random.seed` from its library, numpy.random.seed; "" when its root was not imported."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in known:
        return ""
    return ".".join([known[node.id], *reversed(parts)])


def installed(module: str) -> bool:
    """True when a module is there to be imported. Nothing outside the allow-list is imported to find out."""
    root = module.partition(".")[0]
    if root in sys.builtin_module_names or (root in sys.stdlib_module_names and root in sys.modules and root == module):
        return True
    try:
        if "." not in module or (root not in LIBRARIES and root not in sys.stdlib_module_names):
            return importlib.util.find_spec(root) is not None
        if root not in LIBRARIES:
            return True  # a part of a standard package: looking for it would import its parents
        return importlib.util.find_spec(module) is not None or exists(module)
    except (ImportError, ValueError, AttributeError):
        return False


def exists(path: str) -> bool:
    """True when a dotted path of an allow-listed library resolves in the installed version, or when that cannot be told."""
    parts = path.split(".")
    if parts[0] not in LIBRARIES or any(part in ("tests", "conftest", "__main__") or part.startswith("_") for part in parts):
        return True
    try:
        value: Any = importlib.import_module(parts[0])
    except ImportError:
        return False
    for place, part in enumerate(parts[1:], 1):
        if not (inspect.ismodule(value) or inspect.isclass(value)):
            return True  # an instance may have what its class has not
        try:
            value = getattr(value, part)
        except AttributeError:
            if not inspect.ismodule(value):
                return False
            try:
                value = importlib.import_module(".".join(parts[: place + 1]))
            except ImportError:
                return False
        except Exception:  # noqa: BLE001  a lazy attribute may fail in its own way; only a plain "no" counts
            return True
    return True


def faults(tree: ast.Module, columns: Mapping[str, frozenset[str]], given: Iterable[str] = ()) -> list[Fault]:
    """What does not resolve, in the order of lines. columns: all column names of frames known whole; given: other variables."""
    known = imports(tree)
    found = [*_imported(tree), *_attributes(tree, known)]
    allowed = {*columns, *given}
    found += [Fault("name", name, line, f"{name} is not defined") for name, line in free(tree).items() if name not in allowed]
    for name, whole in columns.items():
        found += _columns(tree, name, whole)
    return sorted(found, key=lambda fault: fault.line)


def _imported(tree: ast.AST) -> Iterator[Fault]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if not installed(alias.name):
                    yield Fault("import", alias.name, node.lineno, f"{alias.name} is not installed")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if not installed(node.module):
                yield Fault("import", node.module, node.lineno, f"{node.module} is not installed")
                continue
            for alias in node.names:
                if alias.name != "*" and not exists(f"{node.module}.{alias.name}"):
                    yield Fault("attribute", f"{node.module}.{alias.name}", node.lineno, f"{node.module} has no {alias.name}")


def _attributes(tree: ast.AST, known: Mapping[str, str]) -> Iterator[Fault]:
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    guarded = {id(one) for node in ast.walk(tree) if isinstance(node, ast.Try) for part in node.body for one in ast.walk(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in inner and id(node) not in guarded:
            path = dotted(node, known)
            if path and not exists(path):
                parts = path.split(".")
                bad = next(".".join(parts[: n + 1]) for n in range(len(parts)) if not exists(".".join(parts[: n + 1])))
                owner, _, last = bad.rpartition(".")
                yield Fault("attribute", bad, node.end_lineno or node.lineno, f"{owner} has no {last}")


def free(tree: ast.Module) -> dict[str, int]:
    """The names that code reads before it binds them, each with its first line; {} when a star import may bind anything."""
    if any(alias.name == "*" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names):
        return {}
    found: dict[str, int] = {}
    bound: set[str] = set()
    late: list[ast.AST] = []
    _block(tree.body, bound, found, late)
    everywhere = bound | _stores(tree)
    for node in late:
        for name, line in _reads(node):
            if name not in everywhere:
                found.setdefault(name, line)
    return {name: line for name, line in found.items() if name not in _GIVEN}


def _block(body: Iterable[ast.stmt], bound: set[str], found: dict[str, int], late: list[ast.AST]) -> None:
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            late.append(statement)  # its body runs later, when more is bound
            bound.add(statement.name)
            continue
        parts = [getattr(statement, name, []) for name in ("body", "handlers", "orelse", "finalbody", "cases")]
        inner = {id(node) for part in parts for one in part for node in ast.walk(one)}
        for name, line in _reads(statement, inner):
            if name not in bound:
                found.setdefault(name, line)
        bound |= _stores(statement, inner)
        for part in parts:
            for one in part:
                if isinstance(one, ast.ExceptHandler):
                    bound |= {one.name} if one.name else set()
                    _block(one.body, bound, found, late)
                elif isinstance(one, ast.match_case):
                    bound |= _stores(one.pattern)
                    _block(one.body, bound, found, late)
                else:
                    _block([one], bound, found, late)


def _reads(node: ast.AST, without: Iterable[int] = ()) -> Iterator[tuple[str, int]]:
    """Names that are read under a node, less those that are bound inside it as arguments or by comprehensions."""
    skipped = set(without)
    own = {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
    own |= {
        name.id
        for one in ast.walk(node)
        if isinstance(one, ast.comprehension)
        for name in ast.walk(one.target)
        if isinstance(name, ast.Name)
    }
    own |= {one.target.id for one in ast.walk(node) if isinstance(one, ast.NamedExpr)}
    for one in ast.walk(node):
        if id(one) in skipped or not isinstance(one, ast.Name) or one.id in own:
            continue
        if isinstance(one.ctx, ast.Load) or (isinstance(node, ast.AugAssign) and one is node.target):
            yield one.id, one.lineno


def _stores(node: ast.AST, without: Iterable[int] = ()) -> set[str]:
    skipped = set(without)
    found: set[str] = set()
    for one in ast.walk(node):
        if id(one) in skipped:
            continue
        if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Load):
            found.add(one.id)
        elif isinstance(one, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in one.names}
        elif isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(one.name)
        elif isinstance(one, ast.arg):
            found.add(one.arg)
        elif isinstance(one, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and one.name:
            found.add(one.name)
        elif isinstance(one, ast.MatchMapping) and one.rest:
            found.add(one.rest)
    return found


def _columns(tree: ast.Module, frame: str, whole: frozenset[str]) -> Iterator[Fault]:
    """Columns that code reads from a frame by its name and that are neither in the frame nor named anywhere else in the code.

    Looks only as far as the code leaves the frame's variable and its columns alone; what is not certain passes.
    """
    end = min((getattr(node, "lineno", 1 << 30) for node in ast.walk(tree) if _changes(node, frame)), default=1 << 30)
    reads: dict[str, list[int]] = {}
    counted: set[int] = set()
    for node in ast.walk(tree):
        if not (
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Load)
            and isinstance(node.value, ast.Name)
            and node.value.id == frame
        ):
            continue
        if node.lineno > end:
            continue
        for one in node.slice.elts if isinstance(node.slice, ast.List) else [node.slice]:
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                reads.setdefault(one.value, []).append(one.lineno)
                counted.add(id(one))
    others = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in counted
    }
    others |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    for name, lines in reads.items():
        if name not in whole and name not in others:
            yield Fault("column", name, lines[0], f"{frame} has no column {name!r}", frame)


def _changes(node: ast.AST, frame: str) -> bool:
    """True when a node binds a frame's variable anew or gives the frame other columns."""
    if isinstance(node, ast.Name):
        return node.id == frame and not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id == frame and (not isinstance(node.ctx, ast.Load) or node.attr == "insert")
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        return isinstance(node.value, ast.Name) and node.value.id == frame and not isinstance(node.slice, ast.Constant)
    return isinstance(node, ast.keyword) and node.arg == "inplace"
