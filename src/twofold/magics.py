"""The notebook: %ask, %fix, %explain, %twofold. `%load_ext twofold` brings them; the model loads at the first question that needs it.

An answer streams into the cell's output, its code goes into the next cell and is run by nobody. All that lives here is what needs IPython:
what a cell says is read in `cells`, what the notebook holds in `notebook`, and an answer is shown by `result`.
"""

import ast
import json
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from IPython.core.error import UsageError
from IPython.core.magic import no_var_expand
from IPython.display import DisplayHandle

from twofold import assistant, cells, export, notebook
from twofold.engines import Engine, goes_to
from twofold.engines.later import Later
from twofold.receipt import Recorder, Replay, as_json, from_json, replay
from twofold.result import Result, told
from twofold.sandbox.child import explain
from twofold.status import timed
from twofold.types import MODES, SHARES, Message, Reply, Request, Route, Sampling, TwofoldError

FRAME = 0.08  # seconds between two repaints of a growing answer
OPTIONS = {"-m": True, "--mode": True, "--adapter": True, "--no-guard": False, "--data": True, "--model": True, "-o": True, "--seed": True}
OPTIONS |= {"--temperature": True, "--max-new-tokens": True, "--no-verify": False, "-n": True}
HELP = """\
%ask QUESTION, %%ask      an answer; its code goes into the next cell     @df @In[3] @Out[3] @Err   refer to data, cells, the last error
%fix [WHAT IT SHOULD DO]  the last cell that failed, corrected            %explain [CELL NUMBER]    what a cell does
  -m code|explain|auto  --adapter NAME  --no-guard  --data FILE  --model NAME  -o NAME  --no-verify  -n OTHERS  --seed N  --temperature T
%twofold                  status                                 %twofold share nothing|schema|levels|values   what a prompt may tell
%twofold model NAME       embedded, mistral-7b, a folder, a URL  %twofold last         the exact prompts of the last answer
%twofold adapter NAME|auto [FOLDER]                              %twofold history      what was asked; clear forgets it
%twofold guard on|off     decline what is not data science       %twofold export FILE  the chat as a notebook; --data copies frames
%twofold verify on|off    on also runs below a strong sandbox    %twofold receipt ID|FILE [FILE]   make an answer again, or save it"""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or the stop button: the answer ends, and so do the cells that wait behind it."""

    def _render_traceback_(self) -> list[str]:
        return ["Stopped."]


class Conversation:
    """What a notebook's conversation remembers, and what its magics do."""

    def __init__(self, shell: Any, opener: Callable[[str], Engine] | None = None) -> None:
        """Attach to a shell. opener: how engines are opened, if not with `open_engine`."""
        self.shell = shell
        self.settings = Request("", verify=True)
        self.model = "embedded"
        self.engines: dict[str, Later] = {}
        self.results: list[Result] = []
        self.failure: cells.Failure | None = None
        self._opener = opener

    # what is asked

    def ask(self, line: str, cell: str = "") -> Result:
        """Answer the question in a line and a cell's body."""
        given, rest = cells.options(line, OPTIONS)
        typed = assistant.check_question(f"{rest}\n{cell}" if rest and cell.strip() else rest or cell)
        settings = self._settings(given)
        text, named = cells.resolve(typed, self._book(), settings.share)
        first = {*named, *(name for name in self._names() if name in typed)}
        request = self._grounded(replace(settings, text=text), first, given.get("--data"))
        lead = notebook.reading(given["--data"]) + "\n\n" if "--data" in given else ""
        return self._answer(typed, lambda engine, sampling: assistant.stream(request, engine, sampling), given, lead=lead)

    def fix(self, line: str) -> Result:
        """Correct the last cell that failed; the line may say what it should do."""
        given, wish = cells.options(line, OPTIONS)
        failure = self.failure
        if failure is None:
            raise TwofoldError("no cell has failed since the extension was loaded: run the cell again, then %fix")
        lead, code = cells.without_magics(failure.cell)
        error = _unreadable(code) or cells.moved(failure.error, lead.count("\n"))
        request = self._grounded(replace(self._settings(given), text=wish, mode="code"), self._names())
        asked = f"{wish or 'Fix this cell.'}\n{cells.fenced(code)}"
        code = code.rstrip("\n")
        return self._answer(asked, lambda engine, sampling: assistant.fix(code, error, request, engine, sampling), given, lead=lead)

    def explain(self, line: str, cell: str = "") -> Result:
        """Explain the last cell, the one whose number the line gives, or the code of a cell."""
        given, which = cells.options(line, OPTIONS)
        asked = f"What does this code do?\n{cells.fenced(cell if cell.strip() else self._cell(which))}"
        settings = self._settings(given)
        request = replace(settings, text=asked, mode="explain", adapter=settings.adapter or "theory", verify=False)
        return self._answer(asked, lambda engine, sampling: assistant.stream(request, engine, sampling), given)

    def _cell(self, which: str) -> str:
        inputs = self.shell.user_ns.get("In", [""])
        if which:
            number = int(which) if which.isdigit() else 0
            if not 0 < number < len(inputs):
                raise TwofoldError(f"there is no cell {which}: %explain takes a number up to {len(inputs) - 1}, or code in %%explain")
            return self._raw(number)
        for number in range(len(inputs) - 1, 0, -1):
            if (code := self._raw(number)).strip() and not code.lstrip().startswith("%"):
                return code
        raise TwofoldError("no cell was run yet: run one, or give the code in %%explain")

    def _raw(self, number: int) -> str:
        """A cell as it was typed."""
        typed = self.shell.history_manager.input_hist_raw
        return str(typed[number]) if number < len(typed) else str(self.shell.user_ns["In"][number])

    # what an answer is made with

    def _settings(self, given: Mapping[str, str]) -> Request:
        mode = given.get("-m", given.get("--mode", self.settings.mode))
        if mode not in MODES:
            raise TwofoldError(f"there is no mode {mode!r}; there are {', '.join(MODES)}")
        settings = replace(self.settings, mode=mode, adapter=given.get("--adapter", self.settings.adapter))
        if "--no-guard" in given:
            settings = replace(settings, guard=False)
        if "--no-verify" in given:
            settings = replace(settings, verify=False)
        return replace(settings, n=int(_number(given, "-n", 0, 64))) if "-n" in given else settings

    def _grounded(self, request: Request, first: Collection[str], data: str | None = None) -> Request:
        """A request with what the notebook holds, as far as it is shared. At the level "nothing" not even a run has its data."""
        names: dict[str, Any] = dict(self._names())
        if data:
            names["df"] = notebook.load(data)
        ground = notebook.ground(names)
        if request.share == "nothing":
            framed = {name for name, _ in ground.frames}
            return replace(request, setup=tuple(pair for pair in ground.setup if pair[0] not in framed), bound=ground.bound)
        schema = notebook.told(names, request.share, first=sorted(first))
        return replace(request, notebook=schema, frames=ground.frames, setup=ground.setup, bound=ground.bound)

    def _names(self) -> dict[str, Any]:
        """The user's variables: none of IPython's, none that begins with an underscore."""
        hidden = self.shell.user_ns_hidden
        return {name: value for name, value in self.shell.user_ns.items() if name[:1] != "_" and hidden.get(name, self) is not value}

    def _book(self) -> cells.Book:
        space = self.shell.user_ns
        inputs = [self._raw(number) for number in range(len(space.get("In", [""])))]
        return cells.Book(self._names(), inputs, space.get("Out", {}), self.failure)

    def _engine(self, model: str) -> Later:
        if model not in self.engines:
            self.engines[model] = Later(model, self._opener)
            if goes_to(model):
                print(f"prompts go to {model}; %twofold share says what they tell, %twofold last shows them")
        return self.engines[model]

    def _answer(
        self, asked: str, replies: Callable[[Engine, Sampling], Iterator[Reply]], given: Mapping[str, str], *, lead: str = ""
    ) -> Result:
        """Show an answer as it grows, remember it, and put its code into the next cell."""
        later = self._engine(given.get("--model", self.model))
        engine = Recorder(later)
        tokens = int(_number(given, "--max-new-tokens", 1, 1_000_000)) if "--max-new-tokens" in given else Sampling().max_new_tokens
        warmth = _number(given, "--temperature", 0, 2) if "--temperature" in given else 0.0
        seed = int(_number(given, "--seed", 0, 2**31)) if "--seed" in given else 0
        view = _view(self.shell)
        result = Result(asked, Reply("", Route(None, "")))

        def waiting(seconds: float) -> None:
            view.show(replace(result, waiting=f"loading {later.name}, {seconds:.0f} s"))

        later.waiting = waiting
        try:
            with closing(timed(replies(engine, Sampling(tokens, warmth, seed=seed)))) as growing:
                for reply, speed in growing:
                    result = replace(result, reply=reply, speed=speed)
                    view.show(result)
        except KeyboardInterrupt:
            result = replace(result, stopped=True, receipt=engine.receipt(asked) if engine.calls else None)
            view.show(result, last=True)
            self._remember(result)
            raise
        finally:
            later.waiting = None
        code = result.code if result.reply.route.adapter != "theory" else ""
        placed = bool(code) and _places(self.shell)
        if placed:
            self.shell.set_next_input(f"{lead}{code}", replace=False)
        result = replace(result, placed=placed, receipt=engine.receipt(asked))
        view.show(result, last=True)
        self._remember(result)
        if "-o" in given:
            if not given["-o"].isidentifier():
                raise TwofoldError(f"-o {given['-o']} is no name of a variable")
            self.shell.user_ns[given["-o"]] = result
        return result

    def _remember(self, result: Result) -> None:
        self.results.append(result)
        if result.text and not result.stopped and result.reply.route.adapter is not None:
            turns = (Message(role="user", content=result.question), Message(role="assistant", content=result.text))
            self.settings = replace(self.settings, history=self.settings.history + turns)

    # settings

    def obey(self, line: str) -> None:
        """Do what `%twofold` was told; `%twofold help` lists what there is."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise TwofoldError(f"cannot read {line!r} ({error})") from None
        match words:
            case [] | ["status"]:
                print(self._status())
            case ["help"]:
                print(HELP)
            case ["model", name]:
                self.model = name
                print(f"{name} answers from now on; it loads at the first question")
            case ["adapter", "auto"]:
                self.settings = replace(self.settings, adapter=None)
            case ["adapter", name]:
                self.settings = replace(self.settings, adapter=name)
            case ["adapter", name, folder]:
                self._engine(self.model).load(name, folder)
                self.settings = replace(self.settings, adapter=name)
                print(f"{name} is loaded and speaks from now on; %twofold adapter auto lets the router choose")
            case ["guard", ("on" | "off") as word]:
                self.settings = replace(self.settings, guard=word == "on")
            case ["verify", ("on" | "off") as word]:
                self.settings = replace(self.settings, verify=word == "on", consent=word == "on")
            case ["share", level] if level in SHARES:
                self.settings = replace(self.settings, share=level)
                print(f"prompts tell {SHARED[level]}")
            case ["history"]:
                print("\n".join(self._history()) or "nothing was asked yet")
            case ["clear"]:
                self.settings = replace(self.settings, history=())
                self.results.clear()
            case ["last"]:
                print(self._last())
            case ["export", path, *flags] if set(flags) <= {"--data"}:
                self._export(Path(path), bool(flags))
            case ["receipt", which]:
                print(self._replayed(which))
            case ["receipt", which, path]:
                one = self._receipt(which)
                _write(Path(path), json.dumps(as_json(one), indent=1, ensure_ascii=False))
                print(f"receipt {one.id} is in {path}")
            case _:
                raise TwofoldError(f"cannot read {line!r}; %twofold help lists what there is")

    def _status(self) -> str:
        settings, engine = self.settings, self.engines.get(self.model)
        state = "not loaded yet" if engine is None or not engine.settled() else "failed to load" if engine.failure else "ready"
        known = [name for name, value in self._names().items() if notebook.kind_of(value)]
        rows = {
            "model": f"{self.model}, {state}",
            "prompts": f"go to {goes_to(self.model)}" if goes_to(self.model) else "stay on this machine",
            "adapter": settings.adapter or "auto: the router chooses",
            "guard": "on" if settings.guard else "off",
            "verify": "off" if not settings.verify else "on" if settings.consent else "on, where the sandbox is strong",
            "share": f"{settings.share}: prompts tell {SHARED[settings.share]}",
            "knows": ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "") or "no data yet",
            "asked": f"{len(self.results)} times; %twofold help lists what there is",
        }
        return "\n".join(f"{name:9}{what}" for name, what in rows.items())

    def _history(self) -> Iterator[str]:
        for result in self.results:
            id_ = result.receipt.id if result.receipt else "-" * 8
            yield f"{id_}  {result.reply.chip:8} {' '.join(result.question.split())[:90]}"

    def _last(self) -> str:
        if not self.results:
            raise TwofoldError("nothing was asked yet")
        receipt = self.results[-1].receipt
        calls = zip(receipt.calls, receipt.prompts, strict=True) if receipt else ()
        shown = [f"--- {call.adapter}, seed {call.sampling.seed}\n{prompt}" for call, prompt in calls]
        return "\n\n".join(shown) or "the model was not asked: no prompt left the notebook"

    def _receipt(self, which: str) -> Any:
        for result in self.results:
            if result.receipt and result.receipt.id == which:
                return result.receipt
        try:
            return from_json(json.loads(Path(which).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise TwofoldError(f"there is no receipt {which!r}: %twofold history lists their ids, or give a file") from None

    def _replayed(self, which: str) -> str:
        receipt = self._receipt(which)
        again: Replay = replay(receipt, self._engine(receipt.model))
        verdict = f"the same {again.tokens} tokens" if again.same else "other tokens than then"
        weights = {name: digest for files in receipt.weights.values() for name, digest in files.items()}
        made = [f"  from     {digest[:12]}  {name}" for name, digest in weights.items() if name.endswith(".safetensors")]
        return "\n".join([f"receipt {receipt.id} made again: {verdict}", *made, *(f"  changed  {one}" for one in again.changed)])

    def _export(self, path: Path, data: bool) -> None:
        exchanges = [export.Exchange(one.question, one.reply, one.receipt) for one in self.results if one.text and not one.stopped]
        frames = dict(notebook.frames_in(self._names()))
        schema = notebook.summary(frames, budget=len(frames) * notebook.BUDGET)
        export.write(path, exchanges, schema, frames if data else None)
        print(f"{len(exchanges)} answers are in {path}")

    # what the shell reports

    def ran(self, done: Any) -> None:
        """Remember a cell that failed, after each cell."""
        error, cell = done.error_before_exec or done.error_in_exec, done.info.raw_cell if done.info else ""
        if error is None or not cell or isinstance(error, (UsageError, KeyboardInterrupt)):
            return
        self.failure = cells.Failure(cell, _error_text(error))


SHARED = {
    "nothing": "nothing of your data, not even names",
    "schema": "names, dtypes, sizes and null rates, never a cell",
    "levels": "names, dtypes, sizes, null rates, and the levels of columns that have few",
    "values": "names, dtypes, sizes, null rates, levels, ranges, outputs you point at, and errors in full",
}


class _Notebook:
    """An output that is repainted while the answer grows."""

    def __init__(self) -> None:
        self.handle: DisplayHandle | None = None
        self.painted, self.state = 0.0, ("", "")

    def show(self, result: Result, last: bool = False) -> None:
        state = (result.reply.step, result.waiting[:8])
        if not last and state == self.state and time.monotonic() - self.painted < FRAME:
            return
        self.painted, self.state = time.monotonic(), state
        if self.handle is None:
            self.handle = DisplayHandle()
            self.handle.display(result)
        else:
            self.handle.update(result)


class _Terminal:
    """An answer printed as it grows, its steps on lines of their own."""

    def __init__(self) -> None:
        self.shown, self.step, self.waited = "", "", ""
        self.mid_line = False  # behind a step

    def show(self, result: Result, last: bool = False) -> None:
        if result.waiting:
            if not self.waited:
                self.waited = result.waiting
                print(result.waiting.partition(",")[0] + " ...", file=sys.stderr, flush=True)
            return
        text = result.text
        if not text.startswith(self.shown):
            print("\n")
            self.shown, self.mid_line = "", False
        if text != self.shown and self.mid_line:
            print()
            self.mid_line = False
        print(text[len(self.shown) :], end="", flush=True)
        self.shown = text
        if result.reply.step not in ("", self.step):
            self.step, self.mid_line = result.reply.step, True
            print(f"\n  {self.step} ...", end="", flush=True)
        if last:
            print("\n" + "\n".join(told(result)), flush=True)


def _view(shell: Any) -> "_Notebook | _Terminal":
    return _Notebook() if getattr(shell, "kernel", None) is not None else _Terminal()


def _places(shell: Any) -> bool:
    """Whether code can be put into a next cell: a kernel can ask its front end, a terminal fills the next prompt."""
    return hasattr(shell, "set_next_input")


def _number(given: Mapping[str, str], name: str, low: float, high: float) -> float:
    try:
        number = float(given[name])
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise TwofoldError(f"{name} {given[name]} is not a number from {low:g} to {high:g}")
    return number


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TwofoldError(f"cannot write {path} ({error.strerror}): choose another place") from None


def _error_text(error: BaseException) -> str:
    """A traceback with only the lines of the cell, which is named `<cell>`."""
    step, name = error.__traceback__, ""
    while step is not None and not name:
        code = step.tb_frame.f_code
        name = "" if "IPython" in Path(code.co_filename).parts else code.co_filename
        step = step.tb_next
    if isinstance(error, SyntaxError):
        name = error.filename or name
    text, _ = explain(error, name)
    return text.replace(f'File "{name}"', 'File "<cell>"') if name else text


def _unreadable(code: str) -> str:
    """Why Python cannot read code, in its own words (IPython says "incomplete input" of an open bracket); "" when it can."""
    try:
        ast.parse(code, "<cell>")
    except SyntaxError as error:
        return explain(error, "<cell>")[0]
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


_conversations: "WeakKeyDictionary[Any, Conversation]" = WeakKeyDictionary()
"""Who talks in which shell: what `load` has put there, `unload` takes away."""


def magics(talk: Conversation) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Name, kind and function of each magic. Expected failures become one line in the output and end the run of the notebook there."""

    def told(act: Callable[..., Result | None], *words: str) -> Result | None:
        try:
            return act(*words)
        except TwofoldError as error:
            raise UsageError(f"twofold: {error}") from None
        except KeyboardInterrupt:
            raise Stopped from None

    for name, act in (("ask", talk.ask), ("explain", talk.explain), ("fix", talk.fix), ("twofold", talk.obey)):

        def line_magic(line: str, act: Callable[..., Result | None] = act) -> Result | None:
            return told(act, line)

        def cell_magic(line: str, cell: str, act: Callable[..., Result | None] = act) -> Result | None:
            return told(act, line, cell)

        line_magic.__doc__ = cell_magic.__doc__ = f"{act.__doc__}\n\n{HELP}"
        yield name, "line", no_var_expand(line_magic)
        if name in ("ask", "explain"):
            yield name, "cell", no_var_expand(cell_magic)


def load(shell: Any, opener: Callable[[str], Engine] | None = None) -> Conversation:
    """Bring the magics into a shell. opener: how engines are opened, if not with `open_engine`."""
    unload(shell)
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, which the libraries bring; no bar of theirs is shown
    talk = _conversations[shell] = Conversation(shell, opener)
    for name, kind, function in magics(talk):
        shell.register_magic_function(function, kind, name)
    shell.input_transformers_cleanup.insert(0, cells.verbatim)
    shell.events.register("post_run_cell", talk.ran)
    return talk


def unload(shell: Any) -> None:
    """Take the magics away again, where they are."""
    talk = _conversations.pop(shell, None)
    if talk is None:
        return
    shell.events.unregister("post_run_cell", talk.ran)
    shell.input_transformers_cleanup.remove(cells.verbatim)
    for name, kind, _ in magics(talk):
        shell.magics_manager.magics[kind].pop(name, None)
