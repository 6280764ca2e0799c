"""docs/design.md draws who may import whom; here the imports are read and held to it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import twofold

SOURCE = Path(twofold.__file__).parent
DESIGN = SOURCE.parents[1] / "docs" / "design.md"
SURFACES = {"twofold", "twofold.__main__"}  # the public names, and `python -m twofold`: on top of everything

# Where each third party may be imported.
HOMES = {
    "torch": (
        "engines.local",
        "engines.libraries",
        "engines.mistral",
        "engines.nf4",
        "engines.kernels",
        "engines.decoder",
        "engines.resident",
        "train",
        "evals.speed",
        "evals.gpu",
        "evals.ladder",
        "evals.base",
        "evals.gpu_train",
    ),  # these evals measure the machine below the engine
    # these evals build what no engine serves
    "transformers": ("engines.local", "engines.libraries", "train", "evals.ladder", "evals.base", "evals.gpu", "evals.gpu_train"),
    "peft": ("engines.local", "train", "evals.gpu", "evals.gpu_train"),
    "accelerate": ("train",),
    "bitsandbytes": ("engines.libraries", "train", "evals.gpu", "evals.gpu_train"),
    "trl": ("evals.gpu_train",),  # peers, measured where they are installed
    "datasets": ("evals.gpu_train",),
    "unsloth": ("evals.gpu_train",),
    "huggingface_hub": ("engines.folders",),
    "jinja2": ("engines.libraries",),
    "safetensors": ("embed", "engines.folders", "engines.libraries", "engines.resident", "train", "evals.ladder", "evals.gpu_train"),
    "httpx2": ("engines.remote",),
    "psutil": ("engines.local", "engines.libraries"),
    "numpy": ("classify", "embed", "retrieve", "twin", "datasets.check", "datasets.notes", "train", "evals"),
    "pandas": ("twin", "notebook", "datasets"),
    "matplotlib": ("datasets.check", "datasets.stats", "train", "evals"),
    "datasketch": ("datasets.near",),
    "scipy": ("train.router",),
    "sklearn": ("train.router",),
    "tokenizers": ("embed", "train", "evals.base"),
    "threadpoolctl": ("embed",),
    "zstandard": ("train.corpus",),
    "tqdm": ("train", "datasets", "evals"),
    "gradio": ("app",),
    "IPython": ("magics",),
    "nbformat": ("export",),
    "starlette": ("server",),
    "uvicorn": ("server",),
}
# A module outside these imports third parties only inside the functions that need them.
EAGER = (
    "app",
    "magics",
    "server",
    "train",
    *(f"engines.{name}" for name in ("local", "libraries", "mistral", "nf4", "kernels", "decoder", "resident", "remote")),
)
# Inside the engines, behind the seam.
INNER = tuple(f"engines.{name}" for name in ("local", "libraries", "folders", "remote", "mistral", "nf4", "kernels", "decoder", "resident"))
# What crosses the table, and why.
CROSSINGS = {
    ("twofold.evals.base", "twofold.train.quantize"),
    ("twofold.evals.base", "twofold.train.pretrain"),  # the rows that pretraining held out
    ("twofold.evals.base", "twofold.train.corpus"),
    ("twofold.evals.gpu_train", "twofold.train.qlora"),  # what it measures
    ("twofold.evals.gpu_train", "twofold.train.packed"),
    ("twofold.evals.ladder", "twofold.train.quantize"),  # the bottom rung is the trained base without its packing
}


class Import(NamedTuple):
    """One import statement's target."""

    module: str
    target: str
    eager: bool
    """True when `import module` runs it."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {path: ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in SOURCE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


KNOWN = modules()


def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules that a statement imports: `from twofold import clean` means twofold.clean."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, "imports are absolute"
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        yield inner if inner in KNOWN else str(node.module)


def read(module: str, tree: ast.AST, eager: bool = True) -> Iterator[Import]:
    """The imports under a node."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (Import(module, target, eager) for target in targets(node))
        else:
            typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            yield from read(module, node, eager and not typing_only and not isinstance(node, (ast.FunctionDef, ast.Lambda)))


IMPORTS = [one for module, path in KNOWN.items() for one in read(module, ast.parse(path.read_text(encoding="utf-8")))]
OWN = [one for one in IMPORTS if one.target.partition(".")[0] == "twofold"]
FOREIGN = [one for one in IMPORTS if one.target.partition(".")[0] not in ("twofold", *sys.stdlib_module_names)]


def layers() -> dict[str, int]:
    """Each part's height in the table of docs/design.md; the lowest is 0."""
    table = DESIGN.read_text(encoding="utf-8").partition("## Who may import whom")[2].split("```")[1]
    rows = [[part.strip() for part in line.split("|")] for line in table.strip().splitlines()]
    return {part: height for height, row in enumerate(reversed(rows)) for part in row}


def part(module: str) -> str:
    """The entry of the table that a module belongs to."""
    return module.split(".")[1]


def within(module: str, homes: tuple[str, ...]) -> bool:
    """True when a module is one of the homes or inside one."""
    return f"{module}.".startswith(tuple(f"twofold.{home}." for home in homes))


def test_the_table_names_every_part() -> None:
    assert {part(name) for name in KNOWN if name not in SURFACES} == set(layers())


def test_imports_go_only_downwards() -> None:
    height = layers()
    assert len(OWN) > 50
    wrong = [
        f"{one.module} imports {one.target}"
        for one in OWN
        if one.module not in SURFACES
        and (one.module, one.target) not in CROSSINGS
        and (one.target in SURFACES or (part(one.target) != part(one.module) and height[part(one.target)] >= height[part(one.module)]))
    ]
    assert wrong == []


def test_only_the_seam_of_the_engines_is_known_outside() -> None:
    inside = [one for one in OWN if within(one.target, INNER)]
    assert [one for one in inside if part(one.module) not in ("engines", "evals", "train", "doctor")] == []
    assert [one for one in OWN if within(one.target, ("engines.scripted",))] == []  # for tests


def test_third_parties_stay_at_home() -> None:
    homes = {one: HOMES.get(one.target.partition(".")[0], ()) for one in FOREIGN}
    assert [f"{one.module} imports {one.target}" for one, allowed in homes.items() if not within(one.module, allowed)] == []


def test_third_parties_are_imported_where_they_are_needed_and_not_before() -> None:
    assert [f"{one.module} imports {one.target}" for one in FOREIGN if one.eager and not within(one.module, EAGER)] == []


def test_the_reader_sees_what_it_should() -> None:
    late = "def f():\n    from twofold import clean, ask\n    from twofold.types import Reply\n"
    code = "import a.b\nif TYPE_CHECKING:\n    import c\n" + late + "class X:\n    import d"
    found = [(one.target, one.eager) for one in read("twofold.x", ast.parse(code))]
    lazy = [("twofold.clean", False), ("twofold", False), ("twofold.types", False)]
    assert found == [("a.b", True), ("c", False), *lazy, ("d", True)]
