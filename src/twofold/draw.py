"""An answer as HTML, for the app and the notebook: the chip, the ladder, what a run left. Everything of the answer's is escaped."""

import base64
import html
from collections.abc import Iterator

from twofold import sandbox
from twofold.status import ladder
from twofold.types import Reply

ICONS = {  # 24 x 24 stroke paths, so that the chip does not speak by colour alone
    "CODE": "M8 6l-6 6 6 6M16 6l6 6-6 6",
    "THEORY": "M12 6C9 4 5 4 2 5v14c3-1 7-1 10 1 3-2 7-2 10-1V5c-3-1-7-1-10 1zM12 6v14",
    "BASE": "M12 3l9 5-9 5-9-5zM3 13l9 5 9-5",
    "GUARDED": "M12 2l8 3v7c0 5-4 8-8 10-4-2-8-5-8-10V5zM9 12l2 2 4-4",
    "": "M12 9a3 3 0 100 6 3 3 0 000-6z",
}
MARKS = {"passed": "M5 13l5 5L20 6", "failed": "M6 6l12 12M18 6L6 18", "open": "M6 12h12"}  # a tick, a cross, a dash
MOST_LINES, MOST_TABLES = 30, 3  # of a result, shown under an answer


def proof_html(reply: Reply) -> str:
    """Draw the ladder under an answer: each rung with its state and reason, what was repaired, then result, tables and plots of the run."""
    steps = []
    for rung, state, reason in () if reply.step and not reply.failed else ladder(reply):
        mark = f"<svg viewBox='0 0 24 24' aria-hidden='true'><path d='{MARKS[state]}'/></svg>"
        told = {"passed": "passed", "failed": "failed", "open": "not run"}[state]
        why = f"<small>{html.escape(reason)}</small>" if reason else ""
        steps.append(f"<li class='{state}' title='{told}'>{mark}<span>{rung}<span class='sr'> {told}</span>{why}</span></li>")
    parts = [f"<ol class='steps'>{''.join(steps)}</ol>"] if steps else []
    lines = reply.code.splitlines()
    if reply.failed and 0 < reply.line <= len(lines):
        parts.append(f"<pre class='line'><b>{reply.line}</b> {html.escape(lines[reply.line - 1].strip()[:200])}</pre>")
    if reply.wrong and not reply.step:
        parts.insert(0, f"<p class='mended'>What was wrong: {html.escape(reply.wrong)}</p>")
    if reply.repairs:
        parts.append(f"<p class='mended'>Repaired: {html.escape('; '.join(reply.repairs))}</p>")
    if reply.changes:
        parts.append(f"<p class='mended'>Changes {html.escape('. '.join(reply.changes))}</p>")
    if reply.step:
        parts.append(f"<p class='doing'><span class='dot loading'></span>{html.escape(reply.step)} …</p>")
    elif reply.run is not None and reply.run.ok:
        parts += results(reply)
    return f"<div class='proof'>{''.join(parts)}</div>"


def results(reply: Reply) -> Iterator[str]:
    """Draw what a run left: its plots, what it printed and its last value, the tables that it made, its seconds."""
    run = reply.run
    if run is None:
        return
    for number, plot in enumerate(run.plots, 1):
        yield f"<img alt='Plot {number} of the answer' src='data:image/png;base64,{base64.b64encode(plot).decode()}'>"
    result = ""
    tables: tuple[sandbox.Table, ...] = ()
    if isinstance(run, sandbox.Outcome):
        result = "" if run.plots and run.result.startswith(("<", "array([<", "[<")) else run.result
        last = reply.code.rstrip().rpartition("\n")[2]
        tables = tuple(table for table in run.frames if not result or last in (table.name, f"{table.name}.head()"))[:MOST_TABLES]
        result = "" if tables else result
    if said := "\n".join(filter(None, (run.stdout.strip(), result))):
        kept = said.splitlines()
        more = f"\n... {len(kept) - MOST_LINES} lines more" if len(kept) > MOST_LINES else ""
        yield f"<pre tabindex='0'>{html.escape(chr(10).join(kept[:MOST_LINES]) + more)}</pre>"
    for table in tables:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *table.columns))
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(short(cell))}</td>' for cell in row)}</tr>" for row in table.head)
        size = f"{html.escape(table.name)}: {table.shape[0]:,} × {table.shape[1]}"
        yield f"<div class='table' tabindex='0'><table><caption>{size}</caption><tr>{head}</tr>{body}</table></div>"
    data = "your data" if "ran on your data" in reply.proof else "made-up data"
    yield f"<p class='ran'>ran on {data} in {run.seconds:.2f} s, sandbox {html.escape(run.level)}</p>"


def short(cell: str) -> str:
    """A cell with a long fraction, to six digits."""
    try:
        return f"{float(cell):.6g}" if "." in cell and len(cell) > 8 else cell
    except ValueError:
        return cell


def chip_for(reply: Reply) -> str:
    """Show who speaks in a reply, and why."""
    return chip_html(reply.chip, reply.route.why)


def chip_html(name: str, why: str) -> str:
    """Draw the chip: icon, name and colour, with the reason beside it. An adapter that was loaded later has a colour of its own."""
    kind = name.lower() if name in ICONS else "other"
    icon = f"<svg viewBox='0 0 24 24' aria-hidden='true'><path d='{ICONS.get(name, ICONS[''])}'/></svg>"
    return f"<span class='chip {kind or 'idle'}'>{icon}{html.escape(name or 'IDLE')}</span><span class='why'>{html.escape(why)}</span>"
