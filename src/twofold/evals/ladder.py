"""The ladder after a training run, `twofold bench ladder`: cheap gates first, each a number, a target and a verdict.

0 the NF4 folder computes what its de-quantised weights compute. 2 names are copied exactly. 3 answers have the right form. 7 THEORY uses
the right card and survives a wrong one. All gates run, so that one report tells all; a run whose first gates fail needs no look at the
later ones. Gates 4 to 6 are `evals.report`, 8 is `evals.speed`.
"""

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from twofold import clean, notebook, prompts, retrieve
from twofold.datasets import build, rows
from twofold.engines.later import Later
from twofold.evals import suite
from twofold.evals.pattern import match_theory, spoken
from twofold.types import Note, Sampling

FIRST = ("net", "gross", "unit", "store", "order", "client", "parcel", "engine", "sensor", "garden", "ticket", "harbor", "cabin", "pallet")
SECOND = ("height", "mass", "delay", "rate", "ratio", "margin", "level", "width", "fee", "slope", "depth", "load", "speed", "span")
DTYPES = ("float64", "int64")
TEXTS = (
    "df.groupby('region')['price'].mean()",
    "Cross-validation estimates how well a model does on data that it has not seen.",
    "import numpy as np\nrng = np.random.default_rng(0)\nx = rng.normal(size=100)\nprint(x.mean())",
)


@dataclass(frozen=True, slots=True)
class Config:
    """What the ladder runs."""

    model: str = "embedded"
    """embedded or a local folder with base/, code/ and theory/."""
    probes: int = 50
    """Copy probes of each kind."""
    prompts: int = 200
    """Questions whose answers' form is looked at."""
    cards: int = 50
    """Theory questions put with the right card, a wrong one and none."""
    seed: int = 0
    """Which are drawn."""
    data: str = "data"
    """Folder with router.jsonl and eval_theory.jsonl."""
    kept: str = "out/eval"
    """Folder in which answers are kept; a stopped run goes on from there."""
    out: Path = Path("results/ladder.json")
    """Where the verdicts go."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One measured number against its target."""

    number: int
    name: str
    value: float
    target: float
    passed: bool
    n: int
    interval: tuple[float, float] | None = None
    """Wilson, 95 %, where the value is a share in percent."""


def share(number: int, name: str, hits: Sequence[bool], target: float) -> Gate:
    """A gate on a share: passed when the percentage reaches the target."""
    low, high = suite.wilson(sum(hits), len(hits))
    value = 100 * sum(hits) / max(1, len(hits))
    return Gate(number, name, round(value, 1), target, value >= target, len(hits), (round(low, 1), round(high, 1)))


def reload(base: Path) -> list[Gate]:
    """Gate 0: the NF4 folder, loaded by transformers and computing in float32, against a plain model of its de-quantised weights.

    bitsandbytes' bf16 kernel for this CPU, which service uses, rounds weights and sums: for it the likeliest token counts.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

    from twofold.engines.libraries import import_bitsandbytes
    from twofold.train.quantize import dequantized

    import_bitsandbytes()
    tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True)
    texts = [torch.tensor([tokenizer.encode(text, add_special_tokens=False)]) for text in TEXTS]
    shape = json.loads((base / "config.json").read_text(encoding="utf-8"))
    shape.pop("quantization_config")
    plain = MistralForCausalLM(MistralConfig(**shape)).float().eval()
    plain.load_state_dict(dequantized(base / "model.safetensors", torch.float32), strict=False)
    plain.tie_weights()
    exact = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32, local_files_only=True).eval()
    for layer in exact.modules():
        if hasattr(layer, "compute_dtype"):
            layer.compute_dtype, layer.support_avx512bf16_for_cpu = torch.float32, False
        else:  # transformers leaves the rest of a quantised folder in the dtype of its file
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.float()
    served = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.bfloat16, local_files_only=True).eval()
    worst, same = 0.0, list[bool]()
    with torch.inference_mode():
        for ids in texts:
            logits = plain(ids).logits
            worst = max(worst, float((exact(ids).logits - logits).abs().max()))
            same += (served(ids).logits.argmax(-1) == logits.argmax(-1))[0].tolist()
    reloaded = Gate(0, "NF4 folder against its weights: largest difference of logits", worst, 1e-3, worst <= 1e-3, len(same))
    return [reloaded, share(0, "the same likeliest token from the bf16 kernel of this machine", same, 98.0)]


def names(count: int, rng: random.Random) -> list[str]:
    """Different made-up column names, such as harbor_delay3, that no training frame has."""
    drawn = rng.sample([(first, second) for first in FIRST for second in SECOND], count)
    return [f"{first}_{second}{rng.choice(('', '', '_2', '3'))}" for first, second in drawn]


def copies(engine: suite.Remembered, number: int, seed: int) -> tuple[Gate, Gate]:
    """Gate 2: ten named columns of a list (about 40 tokens) all exact, and the one right column among twelve of the notebook."""
    from tqdm import tqdm

    lists, columns = list[bool](), list[bool]()
    for at in tqdm(range(number), desc="copy", disable=None):
        rng = random.Random(f"{seed}/copy/{at}")
        ten, twelve = names(10, rng), names(12, rng)
        found = said(engine, f"select the columns {rows.words(ten)} from df", "")
        lists.append(set(ten) == {name for name in found if "_" in name})
        shown = notebook.describe("df", {name: rng.choice(DTYPES) for name in twelve}, 1000)
        wanted = rng.choice(twelve)
        columns.append(said(engine, f"plot a histogram of {wanted}", shown) & set(twelve) == {wanted})
    return share(2, "ten columns of a list, all exact", lists, 99.0), share(2, "the right column among 12", columns, 95.0)


def said(engine: suite.Remembered, question: str, shown: str) -> set[str]:
    """Every name in the code that CODE answers with."""
    raw = "".join(engine.generate(prompts.compose("code", question, notebook=shown), "code", Sampling()))
    tree = clean.tree_of(clean.code_of(clean.clean(raw, "code", question, final=True)))
    return set(spoken(tree)) if tree else set()


def forms(engine: suite.Remembered, asked: Sequence[tuple[str, str]], count: Callable[[str], int]) -> list[Gate]:
    """Gate 3: raw answers to (adapter, question) stop by themselves, parse, echo nothing and have their adapter's form."""
    from tqdm import tqdm

    stopped, parsed, silent, right = list[bool](), list[bool](), list[bool](), list[bool]()
    for adapter, question in tqdm(asked, desc="form", disable=None):
        raw = "".join(engine.generate(prompts.compose(adapter, question), adapter, Sampling())).strip()
        stopped.append(engine.last.pieces < Sampling().max_new_tokens and count(raw) < 0.97 * Sampling().max_new_tokens)
        silent.append(not echoes(raw, question, prompts.SYSTEM[adapter]))
        block = re.fullmatch(r"```python\n((?:(?!```).)*)\n```", raw, re.S)
        right.append(bool(block) if adapter == "code" else "```" not in raw and len(raw) >= 20)
        if adapter == "code":
            parsed.append(clean.parses(clean.code_of(raw)) and bool(clean.code_of(raw)))
    return [
        share(3, "stops by itself", stopped, 98.0),
        share(3, "code parses", parsed, 95.0),
        share(3, "no echo", silent, 99.0),
        share(3, "right form for its adapter", right, 97.0),
    ]


def echoes(raw: str, question: str, system: str) -> bool:
    """True when an answer begins with the question or holds prompt text."""
    start = raw.removeprefix("```python\n").lstrip("# ").casefold().startswith(question.strip().casefold())
    return start or system in raw or bool(re.search(r"\[/?INST\]|^(?:Notebook|Example|Card):", raw, re.M))


def cards(engine: suite.Remembered, asked: Sequence[suite.Row], part: str, seed: int) -> list[Gate]:
    """Gate 7 on one slice: the rubric with the right card in the prompt, a wrong one, none. A wrong card may cost 10 points."""
    from tqdm import tqdm

    known = {card.id: card for card in rows.cards()}
    passed: dict[str, list[bool]] = {"none": [], "right": [], "wrong": []}
    for row in tqdm(asked, desc="cards", disable=None):
        own, question = known[row["source"].removeprefix("card:")], suite.request_of(row, "theory").text
        others = [card for card in known.values() if card.topic != own.topic]
        held: dict[str, tuple[Note, ...]] = {
            "none": (),
            "right": (build.card_note(own),),
            "wrong": (build.card_note(random.Random(f"{seed}/{row['id']}").choice(others)),),
        }
        for name, notes in held.items():
            messages = prompts.compose("theory", question, notes=retrieve.fit(notes, question, retrieve.BUDGET))
            raw = "".join(engine.generate(messages, "theory", Sampling()))
            passed[name].append(match_theory(clean.clean(raw, "prose", question, final=True), row).passed)
    none = share(7, f"{part} rubric without a card (no target)", passed["none"], 0.0)
    right = share(7, f"{part} rubric with the right card", passed["right"], 80.0)
    return [none, right, share(7, f"{part} rubric with a wrong card", passed["wrong"], round(none.value - 10, 1))]


def main(config: Config) -> int:
    """Run the gates, print and write them; return how many failed."""
    folder = suite.WEIGHTS if config.model == "embedded" else Path(config.model)
    mark = suite.fingerprint(config.model)
    later = Later(config.model)
    engine = suite.Remembered(later, Path(config.kept) / f"{mark}.jsonl")
    labelled = rows.read(Path(config.data) / "router.jsonl")
    questions = [(row["intent"], row["text"]) for row in labelled if row["split"] == "test" and row["topic"] and not row["recall"]]
    random.Random(config.seed).shuffle(questions)
    theory = rows.read(Path(config.data) / "eval_theory.jsonl")
    asked = [row for part in ("heldout", "known") for row in suite.sample(theory, part, config.cards, config.seed)][: config.cards]
    count: Callable[[str], int] = getattr(later.open(), "count", len)
    gates = [
        *reload(folder / "base"),
        *copies(engine, config.probes, config.seed),
        *forms(engine, questions[: config.prompts], count),
    ]
    for part in ("heldout", "known"):
        gates += cards(engine, [row for row in asked if row["slice"] == part], part, config.seed)
    result = {"model": config.model, "weights": mark, "seed": config.seed, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result | {"gates": [asdict(gate) for gate in gates]}, indent=2) + "\n", encoding="utf-8")
    for gate in gates:
        print(f"{gate.number}  {gate.name:70}{gate.value:10.4g}  target {gate.target:g}  n {gate.n:4}  {'pass' if gate.passed else 'FAIL'}")
    return sum(not gate.passed for gate in gates)
