from collections.abc import Iterator

from twofold.status import line, timed
from twofold.types import Reply, Route

ROUTE = Route("code", "asks for code")


def test_speed_counts_from_the_first_token_so_that_loading_is_not_in_it() -> None:
    replies = [
        Reply("", ROUTE),
        Reply("a", ROUTE, "code", seconds=10, tokens=1),
        Reply("ab", ROUTE, "code", seconds=12, tokens=97, done=True),
    ]
    assert [speed for _, speed in timed(replies)] == [0.0, 0.0, 48.0]


def test_line_names_speaker_reason_time_and_speed() -> None:
    assert line(Reply("x", ROUTE, "code", seconds=3.14), 48.2) == "CODE · asks for code · 3.1 s · 48 tok/s"
    assert line(Reply("no", Route(None, "not about data science"), seconds=0.01), 0.0) == "GUARDED · not about data science · 0.0 s"


def test_closing_closes_the_answer() -> None:
    closed: list[bool] = []

    def endless() -> Iterator[Reply]:
        try:
            while True:
                yield Reply("", ROUTE)
        finally:
            closed.append(True)

    answer = timed(endless())
    next(answer)
    answer.close()
    assert closed == [True]
