"""twofold, a data-science notebook assistant: ask in plain language, get runnable Python or a short, correct explanation."""

from twofold.assistant import ask, stream
from twofold.engines import Engine, open_engine
from twofold.types import Message, Reply, Request, Route, Run, Sampling, TwofoldError

__all__ = ["Engine", "Message", "Reply", "Request", "Route", "Run", "Sampling", "TwofoldError", "ask", "open_engine", "stream"]
__version__ = "0.1.0"


def load_ipython_extension(shell: object) -> None:
    """What `%load_ext twofold` calls: %ask, %fix, %explain and %twofold. The model loads at the first question that needs it."""
    from twofold.magics import load

    load(shell)


def unload_ipython_extension(shell: object) -> None:
    """What `%unload_ext twofold` calls: the shell is as it was."""
    from twofold.magics import unload

    unload(shell)
