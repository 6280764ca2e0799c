"""The command line: ask, chat, app, serve, and one command for each stage of training, data, evaluation and measuring.

Only the standard library is imported here; each command imports what it needs, so that `twofold --help` answers at once.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import inspect
import itertools
import json
import math
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from twofold.types import MODES, Message, Reply, Request, Sampling, TwofoldError

CHAT_HELP = """\
/mode auto|code|explain   what kind of answer      /load NAME PATH   one more adapter, no restart
/guard on|off             decline what is not data science    /clear   forget the conversation
/adapter NAME|auto        who must speak           /quit   or Ctrl-D; Ctrl-C stops an answer"""


FIGURES = Path("twofold-figures")
"""Where the plots of a verified answer go when nobody says."""
SHOWN_LINES = 20  # of what a verified answer printed


class Stage(NamedTuple):
    """A command whose flags are the fields of `Config` in a module, and whose work is that module's `main`."""

    module: str
    help: str
    extra: str
    """The optional dependencies it needs: `pip install twofold[extra]`."""
    fixed: Mapping[str, Any] = types.MappingProxyType({})
    """Fields that the command's name decides."""


GROUPS = {"train": "make the model, stage by stage", "data": "make and check the training rows", "bench": "measure a model on this machine"}
STAGES = {
    "train tokenizer": Stage("twofold.train.tokenizer", "the byte-level BPE vocabulary", "train"),
    "train corpus": Stage("twofold.train.corpus", "clean, de-duplicate and encode the pretraining text", "train"),
    "train pretrain": Stage("twofold.train.pretrain", "the embedded base model, from nothing", "train"),
    "train quantize": Stage("twofold.train.quantize", "round the base to 4-bit NF4", "train"),
    "train code": Stage("twofold.train.qlora", "the CODE adapter", "train", {"adapter": "code"}),
    "train theory": Stage("twofold.train.qlora", "the THEORY adapter", "train", {"adapter": "theory"}),
    "train adapter": Stage("twofold.train.qlora", "an adapter of your own, from your own rows", "train"),
    "train embed": Stage("twofold.train.embed", "the encoder behind router and retrieval", "train"),
    "train router": Stage("twofold.train.router", "the router and guardrail", "train"),
    "data build": Stage("twofold.datasets.build", "build the chat rows from data/sources", "data"),
    "data notes": Stage("twofold.datasets.notes", "gather the examples and cards that answers draw on", "data"),
    "data check": Stage("twofold.datasets.check", "run and check every row", "data"),
    "data stats": Stage("twofold.datasets.stats", "count and draw what the rows hold, into data/README.md", "train"),
    "eval": Stage("twofold.evals.report", "run the evaluation suites and write results/", "data"),
    "bench ladder": Stage("twofold.evals.ladder", "the gates that a trained model must pass", "train"),
    "bench base": Stage("twofold.evals.base", "loss by slice, completed functions and long copies of base models", "train"),
    "bench gpu": Stage("twofold.evals.gpu", "Mistral-7B on one GPU: decoding and training, beside what else is installed", "train"),
    "bench cpu": Stage("twofold.evals.speed", "time to first token, tokens a second, memory on this machine", "train"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 an expected failure in one line, 130 stopped with Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")  # a broken byte or a narrow terminal is no reason to fail
    try:
        for name in (" ".join(words[:2]), " ".join(words[:1])):
            if name in STAGES:
                return run_stage(name, STAGES[name], words[len(name.split()) :])
        args = build_parser().parse_args(words)
        return typing.cast(int, args.command(args))
    except TwofoldError as error:
        print(f"twofold: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands that are not stages, and of every command's help."""
    parser = argparse.ArgumentParser(prog="twofold", description="Data-science notebook assistant: one model, a CODE and a THEORY adapter.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    ask = commands.add_parser("ask", help="answer one question")
    ask.add_argument("question", nargs="+", metavar="QUESTION", help="the question; - reads it from standard input")
    ask.add_argument("--json", action="store_true", help="print one JSON object at the end instead of streaming text")
    chat = commands.add_parser("chat", help="talk, with memory", epilog=CHAT_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    for command, run in ((ask, run_ask), (chat, run_chat)):
        command.set_defaults(command=run)
        command.add_argument("--mode", choices=MODES, default="auto", help="what kind of answer; auto lets the router decide (default)")
        command.add_argument("--adapter", metavar="NAME", help="a loaded adapter that must speak, whatever the router thinks")
        command.add_argument("--no-guard", dest="guard", action="store_false", help="let BASE answer what is not data science")
        add_model(command)
        command.add_argument("--max-new-tokens", type=whole, default=Sampling().max_new_tokens, metavar="N", help="(default: %(default)s)")
        command.add_argument("--temperature", type=warmth, default=0.0, metavar="T", help="0 is greedy (default), up to 2")
        command.add_argument("--seed", type=int, metavar="N", help="makes a temperature above 0 repeatable")
        command.add_argument(
            "--verify", action="store_true", help="run code in the sandbox before it counts as proved, and mend what fails"
        )
        command.add_argument(
            "--data", type=Path, metavar="FILE", help="a CSV, TSV, Parquet, Excel or JSON file that the answer knows as df"
        )
        command.add_argument(
            "--n", type=whole, default=Request("").n, metavar="N", help="other answers tried when one fails (default: %(default)s)"
        )
        command.add_argument("--figures", type=Path, metavar="DIR", help=f"where --verify saves plots (default: {FIGURES})")

    app = commands.add_parser("app", help="the web app", description="The web app. TWOFOLD_AUTH=user:password asks visitors for both.")
    app.set_defaults(command=run_app)
    app.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s); any but loopback needs TWOFOLD_AUTH")
    app.add_argument("--port", type=whole, default=7860, help="(default: %(default)s)")
    add_model(app)

    about = "An OpenAI-compatible server. TWOFOLD_API_KEY, where set, is the key that clients must send. docs/serving.md"
    serve = commands.add_parser("serve", help="an OpenAI-compatible server", description=about)
    serve.set_defaults(command=run_serve)
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s); any but loopback needs TWOFOLD_API_KEY")
    serve.add_argument("--port", type=whole, default=8000, help="(default: %(default)s)")
    add_model(serve)

    doctor = commands.add_parser("doctor", help="what works on this machine, and the remedy where something does not")
    doctor.set_defaults(command=run_doctor)
    add_model(doctor)

    groups: dict[str, Any] = {}
    for name, stage in STAGES.items():
        group, _, rest = name.partition(" ")
        if rest and group not in groups:
            groups[group] = commands.add_parser(group, help=GROUPS[group]).add_subparsers(required=True, metavar="STAGE")
        (groups[group] if rest else commands).add_parser(rest or group, help=stage.help)
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model, which five commands share."""
    told = "embedded (default), mistral-7b, a local folder, a hub id, or the address of an OpenAI-compatible server: http://host:8000/v1"
    parser.add_argument("--model", default="embedded", help=told)


def whole(text: str) -> int:
    """Read a whole number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a whole number of at least 1")
    return number


def warmth(text: str) -> float:
    """Read a temperature from 0 to 2."""
    if not (math.isfinite(number := float(text)) and 0 <= number <= 2):
        raise argparse.ArgumentTypeError(f"{text} is not a temperature from 0 to 2")
    return number


def run_doctor(args: argparse.Namespace) -> int:
    """Look at this machine, and at the server where --model names one; the exit code is 1 when something is blocked."""
    from twofold import doctor

    return doctor.main(args.model)


# ask and chat


def run_ask(args: argparse.Namespace) -> int:
    """Answer one question; the engine opens only if the router wants an answer from it."""
    from twofold.assistant import stream
    from twofold.engines.later import Later
    from twofold.status import timed

    words = " ".join(args.question)
    request = dataclasses.replace(settings_of(args), text=sys.stdin.read() if words == "-" else words)
    answer = timed(stream(request, Later(args.model), sampling(args)))
    if not args.json:
        return 0 if show(answer, request.verify, args.figures)[1] else 130
    *_, (reply, speed) = answer
    proof = {name: getattr(reply, name) for name in ("proof", "failed", "reason", "line", "repairs", "attempts")} if request.verify else {}
    print(json.dumps(as_json(reply, speed) | proof, ensure_ascii=False))
    return 0


def settings_of(args: argparse.Namespace) -> Request:
    """Collect the flags that every question shares, the data of --data among them; --verify is the user's word that code may run."""
    from twofold.engines import goes_to

    frames: tuple[tuple[str, Any], ...] = ()
    if address := goes_to(args.model):
        print(f"twofold: prompts go to {address}", file=sys.stderr)
    if args.data:
        from twofold.notebook import load, schema

        frames = (("df", load(args.data)),)
        print(schema(*frames[0]), file=sys.stderr)
    if args.verify:
        from twofold import sandbox

        if (level := sandbox.level()) != "strong":
            print(f"twofold: the sandbox is only {level} on this machine: what the answer does is not fully locked in", file=sys.stderr)
    shared = Request("", mode=args.mode, adapter=args.adapter, guard=args.guard, frames=frames)
    return dataclasses.replace(shared, verify=args.verify, consent=args.verify, n=args.n)


def sampling(args: argparse.Namespace) -> Sampling:
    """Collect the flags that choose tokens."""
    return Sampling(max_new_tokens=args.max_new_tokens, temperature=args.temperature, seed=args.seed)


def as_json(reply: Reply, speed: float) -> dict[str, Any]:
    """Return an answer as plain values."""
    route = {name: getattr(reply.route, name) for name in ("adapter", "why", "recall", "language")}
    answer = {"text": reply.text, "code": reply.code, "adapter": reply.adapter, "chip": reply.chip, "route": route}
    return answer | {"seconds": round(reply.seconds, 3), "tokens": reply.tokens, "tokens_per_second": round(speed, 1)}


def show(answer: Iterator[tuple[Reply, float]], verified: bool = False, figures: Path | None = None) -> tuple[Reply | None, bool]:
    """Print an answer as it grows, and its steps and status line on stderr; return the last snapshot, and False if Ctrl-C ended it early.

    A verified answer may be replaced. On a terminal both are seen; into a file or a pipe goes only the last.
    """
    from twofold.status import line

    reply: Reply | None = None
    told, shown, step, finished, mid_line = "", "", "", False, False
    live = sys.stdout.isatty() or not verified
    try:
        for reply, speed in answer:
            told = line(reply, speed)
            if live or reply.done:
                text = printable(reply.text)
                if not text.startswith(shown):  # the answer was replaced, not continued: a repaired or better candidate
                    print("\n" if mid_line else "")
                    shown = ""
                print(text[len(shown) :], end="", flush=True)
                mid_line |= text != shown
                shown = text
            if reply.step and reply.step != step:
                if mid_line:
                    print(flush=True)
                    mid_line = False
                if reply.failed:
                    aside(f"  failed   {reply.failed}: {reply.reason}")
                aside(f"  {reply.step} ...")
                step = reply.step
        finished = True
    except KeyboardInterrupt:  # what was printed stays
        shown = shown or "^C"
    finally:
        if mid_line or shown == "^C":
            print(flush=True)
    if finished and verified and reply and reply.code:
        show_proof(reply, figures)
    if told:
        aside(f"{told}{'' if finished else ' · stopped'}")
    return reply, finished


def aside(text: str) -> None:
    """Print on stderr, dimmed on a terminal."""
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    print(f"{dim}{printable(text)}{plain}", file=sys.stderr, flush=True)


def show_proof(reply: Reply, figures: Path | None) -> None:
    """Print the ladder of a verified answer, what its run said, and where its plots were saved."""
    from twofold.status import ladder

    for words in reply.repairs:
        aside(f"  repaired {words}")
    for words in reply.changes:
        aside(f"  changes  {words}")
    for rung, state, reason in ladder(reply):
        aside(f"  {'not run' if state == 'open' else state:8} {rung}{f': {reason}' if reason else ''}")
    lines = reply.code.splitlines()
    if reply.failed and 0 < reply.line <= len(lines):
        aside(f"           line {reply.line}: {lines[reply.line - 1].strip()}")
    if reply.run is None or not reply.run.ok:
        return
    said = "\n".join(filter(None, (reply.run.stdout.strip(), getattr(reply.run, "result", ""))))
    if said:
        own = "ran on your data" in reply.proof
        kept = said.splitlines()
        aside(f"  result on {'your' if own else 'made-up'} data:")
        aside(
            textwrap.indent("\n".join(kept[:SHOWN_LINES]), "    ")
            + (f"\n    ... {len(kept) - SHOWN_LINES} lines more" * (len(kept) > SHOWN_LINES))
        )
    for path in save_figures(reply.run.plots, figures or FIGURES):
        aside(f"  plot saved in {path}")


def save_figures(plots: Sequence[bytes], folder: Path) -> list[Path]:
    """Save PNGs as figure-1.png, figure-2.png, ... in a folder, beside those that are there. Raises TwofoldError when it cannot."""
    paths: list[Path] = []
    try:
        if plots:
            folder.mkdir(parents=True, exist_ok=True)
        number = 0
        for plot in plots:
            while (path := folder / f"figure-{(number := number + 1)}.png").exists():
                pass
            path.write_bytes(plot)
            paths.append(path)
    except OSError as error:
        raise TwofoldError(f"cannot save plots in {folder} ({error.strerror}): choose another --figures") from None
    return paths


def printable(text: str) -> str:
    """Drop what could steer a terminal: every control character but newline and tab."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def run_chat(args: argparse.Namespace) -> int:
    """Talk until Ctrl-D; all that the chat remembers is one Request."""
    from twofold.assistant import check_question, stream
    from twofold.engines.later import Later
    from twofold.status import timed

    with contextlib.suppress(ImportError):  # not on every platform, and not needed
        import readline  # noqa: F401 - line editing and history for input()
    engine = Later(args.model)
    settings = settings_of(args)
    print("twofold: ask about data science. /help lists commands, Ctrl-D quits.", file=sys.stderr)
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
            if not text:
                continue
            if text.startswith("/"):
                settings = obey(text, settings, engine.load)
                continue
            text = check_question(text)
            request = dataclasses.replace(settings, text=text)
            reply, _ = show(timed(stream(request, engine, sampling(args))), request.verify, args.figures)
            if reply and reply.text:
                turns: tuple[Message, ...] = ({"role": "user", "content": text}, {"role": "assistant", "content": reply.text})
                settings = dataclasses.replace(settings, history=settings.history + turns)
        except TwofoldError as error:
            print(f"twofold: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print()
        except EOFError:
            return 0


def obey(text: str, settings: Request, load: Callable[[str, str], None]) -> Request:
    """Return the settings that a /command leaves behind; EOFError for /quit, TwofoldError for a command that cannot be read."""
    match text.split(maxsplit=2):
        case ["/quit" | "/exit"]:
            raise EOFError
        case ["/help"]:
            print(CHAT_HELP)
        case ["/clear"]:
            return dataclasses.replace(settings, history=())
        case ["/mode", mode] if mode in MODES:
            return dataclasses.replace(settings, mode=typing.cast(Any, mode))
        case ["/guard", ("on" | "off") as word]:
            return dataclasses.replace(settings, guard=word == "on")
        case ["/adapter", name]:
            return dataclasses.replace(settings, adapter=None if name == "auto" else name)
        case ["/load", name, path]:
            load(name, path)
            print(f"{name} is loaded; /adapter {name} lets it speak", file=sys.stderr)
        case _:
            raise TwofoldError(f"cannot read {printable(text)!r}; /help lists the commands")
    return settings


def run_app(args: argparse.Namespace) -> int:
    """Serve the web app until Ctrl-C."""
    try:
        from twofold.app import serve
    except ModuleNotFoundError as missing:
        raise not_installed(missing, "app") from None
    user, _, password = os.environ.get("TWOFOLD_AUTH", "").partition(":")
    if bool(user) != bool(password):
        raise TwofoldError("TWOFOLD_AUTH must read user:password")
    serve(args.model, host=args.host, port=args.port, auth=(user, password) if user else None)
    return 0


def run_serve(args: argparse.Namespace) -> int:
    """Serve a model to OpenAI clients until Ctrl-C."""
    try:
        from twofold.server import serve
    except ModuleNotFoundError as missing:
        raise not_installed(missing, "serve") from None
    serve(args.model, host=args.host, port=args.port)
    return 0


# stages: flags made from a frozen dataclass


def run_stage(name: str, stage: Stage, words: Sequence[str]) -> int:
    """Read a stage's flags from its Config and run its main; the exit code is 1 when main counts faults."""
    try:
        module = importlib.import_module(stage.module)
        parser = argparse.ArgumentParser(prog=f"twofold {name}", description=inspect.getdoc(module), allow_abbrev=False)
        config = read_config(parser, module.Config, words, stage.fixed)
        result = module.main(config)
    except ModuleNotFoundError as missing:
        raise not_installed(missing, stage.extra) from None
    return int(bool(result))


def not_installed(missing: ModuleNotFoundError, extra: str) -> TwofoldError:
    """Say which optional dependencies bring a missing module."""
    if str(missing.name).startswith("twofold"):
        return TwofoldError(f"{missing.name} is not part of this installation: use a checkout of the project")
    return TwofoldError(f"{missing.name} is not installed: pip install twofold[{extra}]")


def read_config(parser: argparse.ArgumentParser, config: type[Any], words: Sequence[str], fixed: Mapping[str, Any]) -> Any:
    """Give the parser one flag for each field of a dataclass, parse, and return the dataclass; `fixed` fields get no flag."""
    hints, told = typing.get_type_hints(config), field_docs(config)
    for field in dataclasses.fields(config):
        form = flag_form(hints[field.name])
        if not field.init or field.name in fixed or form is None:
            continue
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        needed = default is dataclasses.MISSING
        about = f"{told.get(field.name, '')} {'(required)' if needed else f'(default: {default})'}".strip().replace("%", "%%")
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=None if needed else default, required=needed, help=about, **form)
    values = vars(parser.parse_args(words))
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}, **fixed)


def flag_form(hint: Any) -> dict[str, Any] | None:
    """Translate a field's type to argparse's words; None for a type that no flag can carry."""
    origin, inner = typing.get_origin(hint), [kind for kind in typing.get_args(hint) if kind not in (type(None), ...)]
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if hint in (str, int, float, Path):
        return {"type": hint, "metavar": hint.__name__.upper()}
    if origin is Literal:
        return {"type": type(inner[0]), "choices": inner}
    if origin in (typing.Union, types.UnionType) and len(inner) == 1:
        return flag_form(inner[0])
    if origin is tuple and len(set(inner)) == 1 and (form := flag_form(inner[0])) and "action" not in form:
        return form | {"nargs": "*" if ... in typing.get_args(hint) else len(inner)}
    return None


def field_docs(config: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass. Python drops them; the source still has them."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    docs: dict[str, str] = {}
    body: Iterable[tuple[ast.stmt, ast.stmt]] = itertools.pairwise(typing.cast(ast.ClassDef, definition).body)
    for field, after in body:
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                docs[name] = " ".join(doc.split())
    return docs


if __name__ == "__main__":
    sys.exit(main())
