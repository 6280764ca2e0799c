"""The web app: a chat that streams, a chip that shows who speaks, and the few switches that matter.

Nothing is shared between visitors but the engine; each conversation lives in its own page's state. Nothing leaves this machine,
unless `--model` is the address of a server: then the page says where questions go.
"""

import html
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it while it is imported
import gradio as gr

from twofold import export, listen, notebook, sandbox
from twofold.assistant import check_question, stream
from twofold.draw import chip_for, chip_html, proof_html
from twofold.engines import goes_to
from twofold.engines.later import Later
from twofold.status import pace, timed
from twofold.types import Message, Mode, Request, TwofoldError

TITLE = "Data Science Notebook Assistant"
EXAMPLES = {
    "Plot sales by region": "How do I plot the mean of sales per region as a bar chart with pandas?",
    "What is cross-validation?": "What is cross-validation, and when do I need it?",
    "… and the code for it": "And how do I do that in code?",
    "¿Qué es el sobreajuste?": "¿Qué es el sobreajuste y cómo lo evito?",
    "A soup recipe?": "Give me a recipe for tomato soup.",
}
HINT = "here you see who answers, and why"
FRAME = 0.08  # seconds between two repaints of a growing answer: the page stays smooth and the model keeps its cores
NAME_BUTTONS = """() => {
  const name = () => document.querySelectorAll("#box button").forEach((button) =>
    button.setAttribute("aria-label", button.classList.contains("stop-button") ? "Stop the answer" : "Send the question"));
  new MutationObserver(name).observe(document.getElementById("box"), { childList: true, subtree: true });
  name();
}"""  # gradio gives its two icon buttons no name; a screen reader needs one
DOWNLOAD = """() => setTimeout(() => document.querySelector("#saved").click(), 100)"""  # gradio gives a file away at a second click only
LIVE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite')"  # read out when it changes

Turns = tuple[Message, ...]
"""What one visitor and the assistant have said: the page's state."""


def serve(model: str = "embedded", host: str = "127.0.0.1", port: int = 7860, auth: tuple[str, str] | None = None) -> None:
    """Serve the app until Ctrl-C. Raises TwofoldError for an open host without auth and for a port that cannot be had."""
    listen.check(host, port, auth is not None, "set TWOFOLD_AUTH=user:password")
    engine = Later(model)
    page = build(engine)
    engine.start()
    print(f"twofold: http://{host}:{port} (Ctrl-C stops it)", flush=True)
    launch(page, host, port, auth)


def launch(page: gr.Blocks, host: str, port: int, auth: tuple[str, str] | None = None) -> None:
    """Serve a built page with the app's looks: system fonts, own colours, no footer, no sharing, no analytics."""
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    theme = gr.themes.Base(primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=system, font_mono=mono)
    page.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        theme=theme,
        css_paths=Path(__file__).with_name("app.css"),
        footer_links=[],
        share=False,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
    )


def build(engine: Later) -> gr.Blocks:
    """Lay out the page and connect it to an engine, which may still be loading."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_height=True) as page:
        turns, frame = gr.State(()), gr.State(None)
        with gr.Row(elem_id="top"):
            gr.HTML(f"<h1>{TITLE}</h1>", elem_id="title")
            model = gr.HTML(model_badge(engine), elem_id="model", js_on_load=LIVE)
        chat = gr.Chatbot(
            elem_id="chat",
            scale=1,
            min_height=160,
            show_label=False,
            label="Conversation",
            buttons=["copy"],
            feedback_options=None,
            placeholder=f"## Ask about data science\nCode you can run, or an idea explained. {stays(engine.model)}",
        )
        with gr.Row(elem_id="voice"):
            chip = gr.HTML(chip_html("", HINT), elem_id="chip", js_on_load=LIVE)
            status = gr.HTML("", elem_id="status")
        box = gr.Textbox(
            elem_id="box",
            placeholder="How do I …? What is …?",
            label="Question",
            show_label=False,
            container=False,
            lines=1,
            max_lines=8,
            submit_btn=True,
            autofocus=True,
            html_attributes=gr.InputHTMLAttributes(autocorrect="off"),
        )
        with gr.Row(elem_id="bar"):
            mode = gr.Radio([("Auto", "auto"), ("Code", "code"), ("Explain", "explain")], value="auto", label="Answer", elem_id="mode")
            guard = gr.Checkbox(True, label="Guard", elem_id="guard", info="Decline what is not data science")
            checked = gr.Checkbox(False, label="Verify", elem_id="verify", info="Run code in the sandbox before it counts as proved")
            upload = gr.UploadButton("Data", size="sm", elem_id="upload", variant="secondary", file_types=[".csv", ".parquet"])
            save = gr.Button("Export", size="sm", elem_id="export", variant="secondary")
            saved = gr.DownloadButton("Download", elem_id="saved", elem_classes="unseen")
            clear = gr.Button("Clear", size="sm", elem_id="clear", variant="secondary")
        with gr.Row(elem_id="data", visible=False) as given:
            about = gr.HTML("", elem_id="about", js_on_load=LIVE)
            forget = gr.Button("Remove", size="sm", elem_id="forget", variant="secondary")
        notice = gr.HTML("", elem_id="notice", visible=False, js_on_load=LIVE)
        examples = gr.Dataset(
            components=[gr.Textbox(visible=False)],
            samples=[[text] for text in EXAMPLES.values()],
            sample_labels=list(EXAMPLES),
            show_label=False,
            elem_id="examples",
            layout="gallery",
        )
        with gr.Accordion("Memory and adapters", open=False, elem_id="more"):
            with gr.Row():
                kept = gr.Slider(0, 20, value=6, step=1, label="Memory", info="Earlier exchanges it may look back to")
                adapter = gr.Dropdown(["auto"], value="auto", label="Adapter", info="auto lets the router choose", elem_id="adapter")
            with gr.Row(elem_id="load"):
                name = gr.Textbox(label="New adapter's name", placeholder="finance", max_lines=1, min_width=120)
                folder = gr.Textbox(label="Its folder", placeholder="/home/me/adapters/finance", max_lines=1, scale=2, min_width=160)
                load = gr.Button("Load", size="sm", min_width=80)
            loaded = gr.HTML("", elem_id="loaded", js_on_load=LIVE)

        def speak(event: gr.EventData, typed: str, example: list[str] | None, *rest: Any) -> Iterator[tuple[Any, ...]]:
            if isinstance(event.target, gr.Dataset) and example:
                typed = example[0]
            yield from answer(engine, typed, *rest)

        inputs = [box, examples, chat, turns, mode, guard, kept, adapter, checked, frame]
        outputs = [box, chat, turns, chip, status]
        asked = gr.on(
            [box.submit, examples.click], speak, inputs, outputs, concurrency_limit=8, show_progress="hidden", api_visibility="private"
        )
        box.stop(None, cancels=[asked]).then(stopped, None, [box, status], show_progress="hidden", api_visibility="private")
        clear.click(None, cancels=[asked]).then(cleared, None, outputs, show_progress="hidden", api_visibility="private")
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        upload.upload(load_data, upload, [frame, given, about], **quiet)
        forget.click(lambda: (None, gr.update(visible=False), ""), None, [frame, given, about], **quiet)
        made = save.click(exported, [turns, frame], [saved, notice], **quiet)
        made.success(None, js=DOWNLOAD)
        checked.input(warn, checked, notice, **quiet)
        page.load(level_of_sandbox, None, checked, concurrency_limit=None, **quiet)
        load.click(partial(load_adapter, engine), [name, folder], [loaded, adapter], show_progress="minimal", api_visibility="private")
        page.load(None, js=NAME_BUTTONS)
        page.load(partial(watch, engine), None, [model, adapter], concurrency_limit=None, show_progress="hidden", api_visibility="private")
    return page


def stays(model: str) -> str:
    """Say where questions go."""
    address = goes_to(model)
    return f"Questions go to {address}." if address else "It stays on this machine."


def answer(
    engine: Later,
    text: str,
    shown: list[Any],
    turns: Turns,
    mode: Mode,
    guard: bool,
    kept: float,
    adapter: str,
    verified: bool = False,
    frame: Any = None,
) -> Iterator[tuple[Any, ...]]:
    """Answer one question as new values for box, chat, turns, chip, status. Closing it stops the engine.

    verified: code runs before it counts as proved, at whatever level the sandbox has; the switch says which. frame: the visitor's `df`.
    """
    shown = [*shown, {"role": "user", "content": text.strip()}, {"role": "assistant", "content": ""}]
    history = turns[len(turns) - 2 * min(int(kept), len(turns) // 2) :]
    busy, idle = gr.update(submit_btn=False, stop_btn=True), gr.update(submit_btn=True, stop_btn=False)

    def said(words: str, proof: str = "") -> list[Any]:
        steps = [{"role": "assistant", "content": gr.HTML(proof)}] if proof else []
        return [*shown[:-1], {"role": "assistant", "content": words}, *steps]

    try:
        text = check_question(text)
        yield gr.update(value="", submit_btn=False, stop_btn=True), shown, turns, gr.skip(), "…"
        request = Request(text, mode=mode, adapter=None if adapter == "auto" else adapter, guard=guard, history=history)
        request = replace(request, verify=verified, consent=verified, frames=() if frame is None else (("df", frame),))
        painted, step = 0.0, ""
        with closing(timed(stream(request, engine))) as replies:
            for reply, speed in replies:
                if not (reply.done or reply.step != step or time.monotonic() - painted > FRAME):
                    continue
                painted, step = time.monotonic(), reply.step
                proof = (
                    proof_html(reply)
                    if verified and (reply.step or (reply.done and reply.code and reply.route.adapter != "theory"))
                    else ""
                )
                now = (*turns, Message(role="user", content=text), Message(role="assistant", content=reply.text)) if reply.text else turns
                yield (idle if reply.done else busy), said(reply.text, proof), now, chip_for(reply), reply.step or pace(reply, speed)
                while not reply.done and not engine.settled(0.5):
                    yield busy, shown, turns, gr.skip(), "waiting for the model to load"
    except TwofoldError as error:
        yield idle, said(f"⚠️ {error}"), turns, chip_html("", "no answer"), ""
    except Exception as error:  # the surface: the page must stay alive whatever the engine does
        logging.getLogger(__name__).exception("the answer failed")
        yield idle, said(f"⚠️ The answer failed: {error}"), turns, chip_html("", "no answer"), ""


def stopped() -> tuple[Any, ...]:
    """Return box and status after Stop; what was said stays."""
    return gr.update(submit_btn=True, stop_btn=False), "stopped"


def cleared() -> tuple[Any, ...]:
    """Return box, chat, turns, chip, status of a fresh page."""
    return gr.update(submit_btn=True, stop_btn=False), [], (), chip_html("", HINT), ""


def level_of_sandbox() -> Any:
    """Show the sandbox's level on the switch, and turn it on where the level is strong. The first call takes seconds."""
    try:
        level = sandbox.level()
    except TwofoldError as error:
        return gr.update(value=False, interactive=False, label="Verify: no sandbox", info=str(error))
    return gr.update(value=level == "strong", label=f"Verify ({level})")


def warn(verified: bool) -> Any:
    """Say what a sandbox below "strong" means once the visitor turns it on."""
    if not verified or (level := sandbox.level()) == "strong":
        return gr.update(value="", visible=False)
    return gr.update(value=f"The sandbox is only {level} on this machine: what an answer does is not fully locked in.", visible=True)


def load_data(path: str) -> tuple[Any, ...]:
    """Read an uploaded file as `df`; returns the frame, its row made visible, and its shape and columns or what is wrong."""
    try:
        frame = notebook.load(path)
    except TwofoldError as error:
        return None, gr.update(visible=True), html.escape(str(error))
    names = [str(name) for name in frame.columns]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    columns = ", ".join(f"<code>{html.escape(notebook.safe_name(name).strip(chr(34)))}</code>" for name in names[:12])
    return frame, gr.update(visible=True), f"<b>df</b> {len(frame):,} rows × {len(names)} columns: {columns}{more}"


def exported(turns: Turns, frame: Any) -> tuple[Any, ...]:
    """Write the conversation as a notebook; returns the file for the download, and what is wrong where it cannot be."""
    schema = "" if frame is None else notebook.schema("df", frame)
    path = Path(tempfile.mkdtemp(prefix="twofold-chat-")) / "chat.ipynb"
    try:
        export.write(path, export.exchanges(turns), schema)
    except TwofoldError as error:
        return gr.update(value=None), gr.update(value=html.escape(str(error)), visible=True)
    return gr.update(value=str(path)), gr.update(value="", visible=False)


def load_adapter(engine: Later, name: str, folder: str) -> tuple[Any, ...]:
    """Load one more adapter while the app runs; returns the note about it and the adapter list with it chosen."""
    name, folder = name.strip(), folder.strip()
    try:
        if not (name and folder):
            raise TwofoldError("give the adapter a name and the folder that holds it")
        engine.load(name, folder)
    except TwofoldError as error:
        return f"⚠️ {html.escape(str(error))}", gr.skip()
    except Exception as error:  # the surface
        logging.getLogger(__name__).exception("loading an adapter failed")
        return f"⚠️ It could not be loaded: {html.escape(str(error))}", gr.skip()
    return f"{html.escape(name)} is loaded and speaks from now on", gr.update(choices=["auto", *sorted(engine.adapters)], value=name)


def watch(engine: Later) -> Iterator[tuple[Any, ...]]:
    """Follow the model's loading from a page that was opened meanwhile: values for the badge and the adapter list."""
    while not engine.settled(0.5):
        yield model_badge(engine), gr.skip()
    yield model_badge(engine), gr.skip() if engine.failure else gr.update(choices=["auto", *sorted(engine.adapters)])


def model_badge(engine: Later) -> str:
    """Say how the model is: loading, ready, or why it cannot be had."""
    if not engine.settled():
        return f"<span class='dot loading'></span>loading {html.escape(engine.name)} …"
    if engine.failure:
        return f"<span class='dot failed'></span>{html.escape(str(engine.failure))}"
    return f"<span class='dot ready'></span>{html.escape(engine.name)} is ready"
