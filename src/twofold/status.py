"""What a surface says beside an answer: who spoke, why, how long it took, how fast it came."""

from collections.abc import Generator, Iterable

from twofold.types import Reply


def timed(replies: Iterable[Reply]) -> Generator[tuple[Reply, float], None, None]:
    """Yield each snapshot with the tokens a second since the first token; 0.0 until there are two.

    Loading the model and reading the prompt are in `Reply.seconds`, not in this speed. Closing this closes `replies`.
    """
    first: Reply | None = None
    try:
        for reply in replies:
            first = first or (reply if reply.tokens else None)
            span = reply.seconds - first.seconds if first else 0.0
            yield reply, (reply.tokens - first.tokens) / span if first and span > 0 else 0.0
    finally:
        if isinstance(replies, Generator):
            replies.close()


def pace(reply: Reply, speed: float) -> str:
    """Say how long and how fast: "3.1 s · 48 tok/s"."""
    return f"{reply.seconds:.1f} s" + (f" · {speed:.0f} tok/s" if speed else "")


def line(reply: Reply, speed: float) -> str:
    """Say it all in one line: "CODE · asks for code · 3.1 s · 48 tok/s"."""
    return f"{reply.chip} · {reply.route.why} · {pace(reply, speed)}"
