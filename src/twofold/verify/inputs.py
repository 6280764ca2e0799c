"""What code wants to have before it runs: files to read, variables that are no frames; and what no sandbox can give it."""

import ast
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twofold.verify import names
from twofold.verify.guess import guess

_READERS = frozenset(
    {"read_csv", "read_table", "read_excel", "read_json", "read_parquet", "ExcelFile", "genfromtxt", "loadtxt", "open", "Path"}
)
_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".json", ".jsonl", ".parquet")
_FAR = re.compile(r"^(https?|s3|gs|ftp)://|^(/|~|[A-Za-z]:\\|\.\./)")
_FETCHES = re.compile(r"\b(fetch_\w+|load_dataset|get_rdataset|DataReader|urlopen|urlretrieve)$")
_CONNECTS = frozenset(
    {"create_engine", "read_clipboard", "input", "read_pickle", "read_hdf", "read_feather", "imread", "read_sas", "read_stata", "read_html"}
)
_LOADS = re.compile(r"^(joblib|pickle|torch|numpy|dill|cloudpickle)\.load$")


def out_of_reach(tree: ast.Module) -> str:
    """Why code cannot be tried in a sandbox, or ""."""
    known = names.imports(tree)
    foreign = {path.partition(".")[0] for path in known.values()} & {
        "requests",
        "httpx",
        "selenium",
        "yfinance",
        "psycopg2",
        "pymysql",
        "boto3",
    }
    if foreign:
        return f"it wants the network or a database ({min(foreign)})"
    made = _written(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        path = names.dotted(node.func, known) or called
        if _FETCHES.search(path):
            return f"it fetches data ({called})"
        first = (
            node.args[0]
            if node.args
            else next((one.value for one in node.keywords if one.arg in ("filepath_or_buffer", "io", "path")), None)
        )
        text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""
        if (called in _CONNECTS or _LOADS.match(path)) and text not in made:
            return f"it reads what is not here ({called})"
        if called in _READERS and _FAR.search(text):
            return f"it reads {text[:80]}"
        if path == "sqlite3.connect" and text and text != ":memory:" and not {"to_sql", "executescript"} & _methods(tree):
            return f"it reads the database {text[:80]}"
    return ""


def _methods(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def _written(tree: ast.AST) -> set[str]:
    """File names that the code itself writes."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
            writes = called.startswith("to_") or called in ("ExcelWriter", "savefig", "write_text", "save", "savez", "savetxt", "dump")
            opened = called == "open" and any(
                isinstance(one, ast.Constant) and str(one.value)[:1] in ("w", "a", "x") for one in node.args[1:2]
            )
            if writes or opened:
                found |= {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return found


def files(tree: ast.Module) -> dict[str, ast.Call | None]:
    """Names of data files that code reads, each with the call that reads it, where it is one that says how."""
    found: dict[str, ast.Call | None] = {}
    written = _written(tree)
    first_read: dict[str, int] = {}
    constants = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        for argument in [
            *node.args[:1],
            *(one.value for one in node.keywords if one.arg in ("filepath_or_buffer", "io", "path_or_buf", "path", "fname")),
        ]:
            text = (
                argument.value
                if isinstance(argument, ast.Constant)
                else constants.get(argument.id)
                if isinstance(argument, ast.Name)
                else None
            )
            if called in _READERS and isinstance(text, str) and text.lower().endswith(_SUFFIXES) and not _FAR.search(text):
                first_read.setdefault(text, node.lineno)
                if found.get(text) is None:
                    found[text] = node if called.startswith("read_") or called in ("genfromtxt", "loadtxt", "ExcelFile") else None
            if (
                called in ("glob", "iglob", "rglob")
                and isinstance(text, str)
                and (match := re.search(r"\*(\.\w+)$", text))
                and match[1] in _SUFFIXES
            ):
                for number in (1, 2):
                    found.setdefault(text.replace("**/", "").replace("*", f"part{number}"), None)
    for node in ast.walk(tree):  # lists of files: for name in ["a.csv", "b.csv"]
        if isinstance(node, (ast.List, ast.Tuple)) and node.elts and all(_is_file(one) for one in node.elts):
            for one in node.elts:
                if isinstance(one, ast.Constant):
                    found.setdefault(str(one.value), None)
    return {name: call for name, call in found.items() if name not in written or _read_before_write(tree, name, first_read.get(name, 0))}


def _is_file(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lower().endswith(_SUFFIXES)
        and not _FAR.search(node.value)
    )


def _read_before_write(tree: ast.AST, name: str, line: int) -> bool:
    writes = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith(("to_", "write_"))
        if any(isinstance(one, ast.Constant) and one.value == name for one in ast.walk(node))
    ]
    return bool(line and writes and line < min(writes))


def write(tree: ast.Module, code: str, whole: Any, folder: Path, variant: int = 0, more: Sequence[str] = ()) -> tuple[list[Path], str]:
    """Write the files that code reads, with the data of a frame (None: one is guessed). Returns the paths, and code that puts them where
    the answer looks for them."""
    paths: list[Path] = []
    moves: list[str] = []
    wanted = files(tree)
    if not wanted:
        return [], ""
    frame = whole if whole is not None else guess("", "", code, ("df",), more=more, variant=variant)["df"]
    for number, (name, call) in enumerate(list(wanted.items())[:8]):
        place = folder / f"{number}_{re.sub(r'[^A-Za-z0-9_.]', '_', Path(name).name)}"
        _write_one(place, frame, call)
        paths.append(place)
        moves.append(f"_o.makedirs(_o.path.dirname({name!r}) or '.', exist_ok=True); _o.rename({place.name!r}, {name!r})")
    return paths, "import os as _o\n" + "\n".join(moves) + "\ndel _o\n"


def _options(call: ast.Call | None) -> dict[str, Any]:
    return {one.arg: one.value.value for one in call.keywords if one.arg and isinstance(one.value, ast.Constant)} if call else {}


def _write_one(place: Path, frame: Any, call: ast.Call | None) -> None:
    """One file in the form of its suffix, with the separator, sheet and lines that the reading call names."""
    said, suffix = _options(call), place.suffix.lower()
    called = call.func.attr if call and isinstance(call.func, ast.Attribute) else ""
    if called in ("genfromtxt", "loadtxt"):
        frame = frame.select_dtypes("number")
    if suffix == ".parquet":
        frame.to_parquet(place)
    elif suffix == ".xlsx":
        sheets = said.get("sheet_name", "Sheet1")
        frame.to_excel(place, index=False, sheet_name=sheets if isinstance(sheets, str) and sheets else "Sheet1")
    elif suffix in (".json", ".jsonl"):
        frame.to_json(place, orient="records", date_format="iso", lines=bool(said.get("lines")) or suffix == ".jsonl")
    else:
        sep = said.get("sep", said.get("delimiter", "\t" if suffix == ".tsv" or called == "read_table" else ","))
        decimal = said.get("decimal", ".")
        buffer = io.StringIO()
        header = not (called == "loadtxt" and not said.get("skiprows"))
        frame.to_csv(
            buffer,
            index=False,
            header=header,
            sep=sep if isinstance(sep, str) and len(sep) == 1 else " " if sep else ",",
            decimal=str(decimal),
        )
        blank = int(said["skiprows"]) if isinstance(said.get("skiprows"), int) and header and called != "loadtxt" else 0
        encoding = said.get("encoding")
        text = "# made up\n" * blank + buffer.getvalue()
        place.write_bytes(text.encode(encoding if isinstance(encoding, str) else "utf-8", "replace"))


# variables that are no frames


_SERIES = re.compile(r"^(s|ser|series|ts|y|y_\w+|target|labels?)$")
_ARRAY = re.compile(r"^(arr|array|a|b|x|v|vec|values|matrix|m|data_array|image|img|nums?|numbers|points)$")


def is_split(name: str) -> bool:
    """True for the names that the parts of a train-test split have by custom."""
    return bool(re.match(r"^[Xy](_(train|test|valid|val|new))?$", name))


def may_be_data(tree: ast.Module, name: str) -> bool:
    """True when a variable that the code does not make may be the user's data: it is not called like a function or a class."""
    called = any(isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name for node in ast.walk(tree))
    return not called and not (name[:1].isupper() and name[1:2].islower())


def reshape(tree: ast.Module, frames: Mapping[str, Any]) -> str:
    """Code that turns guessed frames into what their names stand for: y is a Series, arr an array. Frames that are used as such stay."""
    lines = []
    for name in frames:
        framed = any(
            (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == name and _texts(node.slice))
            or (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == name
                and node.attr in ("columns", "groupby", "merge")
            )
            for node in ast.walk(tree)
        )
        if framed or name.startswith("df"):
            continue
        if name.startswith("y") and is_split(name):
            lines.append(
                f"{name} = ({name}.select_dtypes('number').iloc[:, 0] > {name}.select_dtypes('number').iloc[:, 0].median()).astype(int)"
            )
        elif is_split(name):
            lines.append(f"{name} = {name}.select_dtypes('number').fillna(0)")
        elif _SERIES.match(name):
            lines.append(f"{name} = {name}.select_dtypes('number').iloc[:, 0]")
        elif _ARRAY.match(name):
            lines.append(f"{name} = {name}.select_dtypes('number').iloc[:, 0].to_numpy()")
    return "".join(f"{line}\n" for line in lines)


def _texts(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in ast.walk(node))
