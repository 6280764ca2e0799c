"""Running one piece of code as a notebook cell and telling what happened. Hostile code can reach this part: nothing it says is trusted.

The request is a JSON line and the bytes it names; the report is one JSON line. Both are read and written here and in `twofold.sandbox`
alone.
"""

import ast
import builtins
import contextlib
import importlib
import io
import json
import linecache
import os
import random
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

CELL, CHECK = "<cell>", "<check>"
FIGURES = ".figures"
"""Folder in the scratch where open figures are left as PNG."""
TEXT = 20_000
"""Longest repr or error, in characters; the middle is cut out."""
HEAD, WIDTH, FRAMES = 5, 20, 8
"""Rows and columns shown of a new DataFrame, and how many of those are told."""


def pack(header: Mapping[str, Any], blobs: Iterable[bytes]) -> bytes:
    """The request as bytes: the header as a JSON line, then the blobs that it names with their lengths."""
    return b"".join([json.dumps(header).encode(), b"\n", *blobs])


def unpack(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The reverse of pack; header["frames"] and header["files"] end in lengths."""
    end = data.index(b"\n") + 1
    header = json.loads(data[:end])
    blobs = []
    for *_, length in (*header["frames"], *header["files"]):
        blobs.append(data[end : end + length])
        end += length
    return header, blobs


def cut(text: str, limit: int = TEXT) -> str:
    """Text of at most `limit` characters and a remark."""
    return text if len(text) <= limit else f"{text[: limit // 2]}\n... {len(text) - limit} characters left out ...\n{text[-(limit // 2) :]}"


def warm() -> None:
    """Do once, before any fork, what the first use of each library does: lazy imports, font lookup, caches. Starts no thread."""
    with contextlib.suppress(ImportError):
        importlib.import_module("joblib").parallel_config(backend="threading")  # processes are refused in a run; threads are not
    with contextlib.suppress(ImportError):
        pd = importlib.import_module("pandas")
        frame = pd.DataFrame({"key": ["a", "b", "a"], "value": [1.0, 2.0, None], "day": pd.date_range("2024-01-01", periods=3)})
        (
            repr(frame),
            frame.describe(),
            frame.info(buf=io.StringIO()),
            repr(frame.groupby("key", observed=True)["value"].agg(["mean", "sum"])),
        )
        repr(frame.merge(frame, on="key").sort_values("value_x").pivot_table(index="key", values="value_y"))
        pd.read_csv(io.StringIO(frame.to_csv(index=False)), parse_dates=["day"])
        if (encoded := encode_frame(frame)) is not None:
            decode_frame(*encoded)
    with contextlib.suppress(ImportError):
        np = importlib.import_module("numpy")
        linear = importlib.import_module("sklearn.linear_model")
        (
            linear.LinearRegression().fit(np.arange(8.0).reshape(-1, 1), np.arange(8.0)),
            linear.LogisticRegression().fit([[0.0], [1.0]], [0, 1]),
        )
        forest = importlib.import_module("sklearn.ensemble").RandomForestClassifier(2, n_jobs=1)
        forest.fit(np.arange(8.0).reshape(-1, 1), [0, 1] * 4).predict([[1.0]])
        importlib.import_module("scipy.stats").ttest_ind([1.0, 2.0], [2.0, 4.0])
    with contextlib.suppress(ImportError):
        plt = importlib.import_module("matplotlib.pyplot")
        figure, axes = plt.subplots()
        axes.plot([1, 2], label="a")
        axes.set(title="warm", xlabel="x", ylabel="$y^2$")
        axes.legend()
        figure.savefig(io.BytesIO(), format="png")
        plt.close("all")
        with contextlib.suppress(ImportError):
            seaborn = importlib.import_module("seaborn")
            seaborn.histplot(x=[1.0, 2.0, 2.5])
            seaborn.boxplot(x=["a", "b", "a"], y=[1.0, 2.0, 3.0])
            plt.gcf().savefig(io.BytesIO(), format="png")
            plt.close("all")


def encode_frame(frame: Any) -> tuple[str, bytes] | None:
    """A DataFrame as ("arrow", IPC bytes), without pyarrow ("csv", text). Columns that Arrow cannot hold go as str(). None: no frame."""
    if not hasattr(frame, "to_csv") or not hasattr(frame, "columns"):
        return None
    try:
        pa = importlib.import_module("pyarrow")
    except ImportError:
        return "csv", frame.to_csv(index=False).encode()
    try:
        table = pa.Table.from_pandas(frame, nthreads=1)
    except (pa.ArrowException, ValueError, TypeError, NotImplementedError):
        plain = frame.copy(deep=False)
        for place, name in enumerate(frame.columns):
            try:
                pa.Array.from_pandas(frame.iloc[:, place])
            except (pa.ArrowException, ValueError, TypeError, NotImplementedError):
                plain[name] = frame.iloc[:, place].astype(str)
        table = pa.Table.from_pandas(plain, nthreads=1)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return "arrow", sink.getvalue().to_pybytes()


def decode_frame(form: str, data: bytes) -> Any:
    """The reverse of encode_frame."""
    if form == "csv":
        return importlib.import_module("pandas").read_csv(io.BytesIO(data))
    pa = importlib.import_module("pyarrow")
    return pa.ipc.open_stream(pa.py_buffer(data)).read_all().to_pandas(use_threads=False)


def main(payload: int, report: int, scratch: str) -> None:
    """Read the request from one descriptor, run it in the working directory, write the report to the other, end the process."""
    parts = []
    while part := os.read(payload, 1 << 20):
        parts.append(part)
    os.close(payload)
    header, blobs = unpack(b"".join(parts))
    parts.clear()
    result = perform(header, blobs, scratch) | {"token": header["token"]}
    data = json.dumps(result).encode() + b"\n"
    while data:
        data = data[os.write(report, data) :]
    os._exit(0)


def _fresh(scratch: str) -> types.ModuleType:
    """Streams, environment, working memory and random generators as a newly started Python has them."""
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115  lives as long as the process
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ |= {"HOME": scratch, "TMPDIR": scratch, "MPLCONFIGDIR": os.path.join(scratch, ".matplotlib"), "JOBLIB_TEMP_FOLDER": scratch}
    tempfile.tempdir = None
    tempfile._name_sequence = None  # type: ignore[attr-defined]  # the zygote's would give the same names to all
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    sys.argv, sys.path = [""], ["", *sys.path]
    warnings.filterwarnings("ignore", message=".*non-interactive, and thus cannot be shown")
    return module


def perform(header: Mapping[str, Any], blobs: list[bytes], scratch: str) -> dict[str, Any]:
    """Run header["code"], then header["after"] in the same namespace. Returns the report, without token."""
    module = _fresh(scratch)
    space = module.__dict__
    space["display"] = lambda *objects: print(*objects, sep="\n")
    report: dict[str, Any] = {"ok": False, "error": "", "line": 0, "result": "", "frames": [], "after": "", "after_error": ""}
    count = len(header["frames"])
    try:
        for (name, _), data in zip(header["files"], blobs[count:], strict=True):
            with open(name, "wb") as file:
                file.write(data)
        given = {name: decode_frame(form, data) for (name, form, _), data in zip(header["frames"], blobs[:count], strict=True)}
    except Exception as error:  # noqa: BLE001  too large, mostly
        return report | {"error": f"the given data cannot be used here: {type(error).__name__}: {error}"}
    blobs.clear()
    space |= given
    try:
        value = execute(header["code"], space, CELL)
        if value is not None:
            report["result"] = cut(str(repr(value)))
        report["ok"] = True
    except SystemExit as error:
        report["ok"] = error.code in (None, 0)
        report["error"] = "" if report["ok"] else cut(f"SystemExit: {error.code}")
    except BaseException as error:  # noqa: BLE001  anything that the code raises is its result
        report["error"], report["line"] = explain(error, CELL)
        error.__traceback__ = None  # frees what the failed lines held
    if report["ok"] and header["after"]:
        said = io.StringIO()
        space["_last"] = locals().get("value")
        try:
            with contextlib.redirect_stdout(said):
                execute(header["after"], space, CHECK)
        except BaseException as error:  # noqa: BLE001  as above
            report["after_error"], _ = explain(error, CHECK)
        report["after"] = cut(said.getvalue())
    try:
        report["frames"] = describe(space, given)
        draw(os.path.join(scratch, FIGURES))
    except BaseException as error:  # noqa: BLE001  user classes may hide behind a frame or an artist
        if not report["error"]:
            report["ok"], report["error"] = False, cut(f"while showing the result: {type(error).__name__}: {error}")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    return report


def execute(code: str, space: dict[str, Any], name: str) -> Any:
    """Run code in a namespace; the value of its last line when that is an expression not ended by a semicolon, else None."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    tree = ast.parse(code, name)
    last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if last is not None:
        tree.body.pop()
    exec(compile(tree, name, "exec"), space)  # noqa: S102  running code is what a sandbox is for
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), name, "eval"), space)  # noqa: S307  as above
    return None if code.rstrip().endswith(";") else value


def explain(error: BaseException, name: str) -> tuple[str, int]:
    """The traceback with only the user's lines in it, and the number of the last of those (0: none)."""
    steps = [step for step in traceback.extract_tb(error.__traceback__) if step.filename == name]
    try:
        text = "".join(traceback.format_exception_only(error))
    except BaseException:  # noqa: BLE001  a hostile __str__
        text = type(error).__name__
    lines = "".join(traceback.format_list(steps[:3] + steps[-3:] if len(steps) > 6 else steps))
    line = steps[-1].lineno if steps else getattr(error, "lineno", 0) if isinstance(error, SyntaxError) else 0
    return cut(("Traceback (most recent call last):\n" + lines if lines else "") + text, 8000).strip(), line if isinstance(line, int) else 0


def describe(space: Mapping[str, Any], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """DataFrames in the namespace that were not given: name, shape and head, all as text."""
    pandas = sys.modules.get("pandas")
    found: list[dict[str, Any]] = []
    for name, value in list(space.items()):
        if pandas is None or len(found) >= FRAMES:
            break
        if not name.startswith("_") and type(value) is pandas.DataFrame and given.get(name) is not value:
            head = value.iloc[:HEAD, :WIDTH]
            rows = [[cut(str(cell), 200) for cell in row] for row in head.itertuples(name=None)]
            columns = [cut(str(one), 200) for one in head.columns]
            found.append({"name": name, "shape": list(value.shape), "columns": columns, "head": rows})
    return found


def draw(folder: str, most: int = 12, widest: int = 2400) -> None:
    """Save each open figure as PNG, the larger ones at a lower resolution."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    for place, number in enumerate(pyplot.get_fignums()[:most] if pyplot else ()):
        figure = pyplot.figure(number)  # type: ignore[union-attr]
        dpi = min(100.0, widest / max(1.0, *figure.get_size_inches()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a glyph that no font has
            figure.savefig(os.path.join(folder, f"{place:02}.png"), format="png", dpi=dpi)
