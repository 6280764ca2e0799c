"""twofold, a data-science notebook assistant: ask in plain language, get runnable Python or a short, correct explanation."""

from twofold.assistant import ask, stream
from twofold.engines import Engine, open_engine
from twofold.types import Message, Reply, Request, Route, Run, Sampling, TwofoldError

__all__ = ["Engine", "Message", "Reply", "Request", "Route", "Run", "Sampling", "TwofoldError", "ask", "open_engine", "stream"]
__version__ = "0.1.0"
