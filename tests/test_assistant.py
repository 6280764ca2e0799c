import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from twofold import ask, assistant, prompts, stream
from twofold.engines.scripted import Scripted
from twofold.types import Message, Request, Route, Sampling, TwofoldError

CODE = "```python\ndf['price'].mean()\n```"
PLOT = Request("plot a histogram of the price column in pandas")
EXPLAIN = Request("What is cross-validation?")
STRAY = Request("Who won the football match yesterday?")


class Recording(Scripted):
    """A scripted engine that keeps what it was asked."""

    def __init__(self, answer: str = CODE, adapters: Sequence[str] = ("code", "theory")) -> None:
        self.asked: list[tuple[list[Message], str, Sampling]] = []

        def keep(messages: Sequence[Message], adapter: str, sampling: Sampling) -> str:
            self.asked.append((list(messages), adapter, sampling))
            return answer

        super().__init__(keep, adapters)


def never(*_: object) -> str:
    raise AssertionError("the engine was touched")


def test_the_first_snapshot_knows_the_route_before_the_engine_is_touched() -> None:
    first = next(stream(PLOT, Scripted(never)))
    assert (first.text, first.route.adapter, first.adapter, first.done, first.chip) == ("", "code", None, False, "CODE")
    assert first.route.why


def test_snapshots_grow_and_only_the_last_is_done() -> None:
    replies = list(stream(PLOT, Recording("Sure:\n" + CODE + "\nEnjoy!")))
    assert all(later.text.startswith(earlier.text) for earlier, later in itertools.pairwise(replies))
    assert [reply.done for reply in replies] == [False] * (len(replies) - 1) + [True]
    counts = [(reply.tokens, reply.seconds) for reply in replies]
    assert counts == sorted(counts)
    assert replies[-1].text == CODE
    assert replies[-1].tokens == 5
    assert replies[-1].attempts == 1


def test_code_and_its_proof() -> None:
    reply = ask(PLOT, Recording())
    assert (reply.chip, reply.code, reply.proof) == ("CODE", "df['price'].mean()", ("parses",))
    broken = ask(PLOT, Recording("```python\ndf[\n```"))
    assert (broken.code, broken.proof) == ("df[", ())


def test_an_explanation_has_no_code() -> None:
    reply = ask(EXPLAIN, Recording("It holds out folds."))
    assert (reply.chip, reply.text, reply.code, reply.proof) == ("THEORY", "It holds out folds.", "", ())


def test_guarded_never_touches_the_engine() -> None:
    (reply,) = stream(STRAY, Scripted(never))
    assert (reply.chip, reply.adapter, reply.done, reply.attempts, reply.tokens) == ("GUARDED", None, True, 0, 0)
    assert reply.text == prompts.refusal("en")


def test_the_refusal_is_in_the_language_of_the_question() -> None:
    reply = ask(Request("¿Quién ganó el partido de fútbol ayer?"), Scripted(never))
    assert (reply.chip, reply.text) == ("GUARDED", prompts.REFUSAL["es"])


def test_guard_off_lets_base_answer() -> None:
    engine = Recording("I do not know.")
    reply = ask(replace(STRAY, guard=False), engine)
    assert (reply.chip, reply.adapter, reply.text) == ("BASE", "base", "I do not know.")
    assert engine.asked[0][0] == prompts.compose("base", STRAY.text)


def test_a_chosen_adapter_speaks_whatever_the_router_thinks() -> None:
    engine = Recording("select 1", adapters=("code", "theory", "sql"))
    reply = ask(replace(STRAY, adapter="sql"), engine)
    assert (reply.chip, reply.adapter, reply.text) == ("SQL", "sql", "select 1")
    assert engine.asked[0][1] == "sql"
    assert ask(replace(EXPLAIN, adapter="code"), Recording()).chip == "CODE"


def test_an_unknown_adapter_is_an_error_that_names_the_loaded_ones() -> None:
    with pytest.raises(TwofoldError, match=r"'poetry'.*base, code, theory"):
        ask(replace(PLOT, adapter="poetry"), Scripted(never))


def test_without_its_adapter_base_speaks_in_the_form_of_code_and_the_chip_says_so() -> None:
    engine = Recording("Sure!\n" + CODE + "\nDone.", adapters=())
    reply = ask(PLOT, engine)
    assert (reply.chip, reply.route.adapter, reply.text) == ("BASE", "code", CODE)
    assert engine.asked[0][0][0]["content"] == prompts.SYSTEM["code"]
    assert engine.asked[0][1] == "base"


def test_mode_decides_between_code_and_theory() -> None:
    assert ask(replace(EXPLAIN, mode="code"), Recording()).chip == "CODE"
    assert ask(replace(PLOT, mode="explain"), Recording("A histogram counts.")).chip == "THEORY"


class Endless:
    """An engine's iterator that never ends by itself."""

    closed = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return "word "

    def close(self) -> None:
        self.closed = True


def test_closing_the_stream_closes_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, pieces = Scripted(never), Endless()
    monkeypatch.setattr(engine, "generate", lambda *_: pieces)
    replies = stream(EXPLAIN, engine)
    while next(replies).tokens < 3:
        assert not pieces.closed
    replies.close()  # type: ignore[attr-defined]  # a generator, though its type promises an iterator only
    assert pieces.closed


def test_an_error_of_the_engine_is_seen() -> None:
    def failing(*_: object) -> Iterator[str]:
        yield "It "
        raise TwofoldError("out of memory")

    with pytest.raises(TwofoldError, match="out of memory"):
        ask(EXPLAIN, Scripted(failing))


def test_history_joins_only_when_the_question_refers_back(monkeypatch: pytest.MonkeyPatch) -> None:
    history: tuple[Message, ...] = ({"role": "user", "content": "plot the price"}, {"role": "assistant", "content": CODE})
    prompted = []
    for recall in (False, True):
        monkeypatch.setattr(assistant, "decide", lambda _, recall=recall: Route("code", "test", recall=recall))
        engine = Recording()
        ask(Request("make it horizontal", history=history), engine)
        prompted.append(engine.asked[0][0][1:-1])
    assert prompted == [[], list(history)]


def test_a_real_follow_up_is_recalled_and_a_fresh_question_is_not() -> None:
    history: tuple[Message, ...] = ({"role": "user", "content": PLOT.text}, {"role": "assistant", "content": CODE})
    follow, fresh = Recording(), Recording()
    ask(Request("now make it horizontal", history=history), follow)
    ask(Request("group sales by region in pandas and sum", history=history), fresh)
    assert (len(follow.asked[0][0]), len(fresh.asked[0][0])) == (4, 2)


def test_the_prompt_holds_the_notebook_the_notes_and_the_question_as_sent() -> None:
    engine, sampling = Recording(), Sampling(temperature=0.7, seed=3)
    question = "plot a histogram of {price} with 100% $care </s>"
    reply = ask(Request(f"  {question}\x1b[31m\n", notebook="df: 9 rows; price float64"), engine, sampling)
    messages, adapter, used = engine.asked[0]
    assert messages[-1]["content"].startswith("Notebook:\ndf: 9 rows; price float64\n\n")
    assert messages[-1]["content"].endswith("\n\n" + question)
    assert (adapter, used) == ("code", sampling)
    assert messages[-1]["content"].count("Example: ") == len(reply.sources) > 0


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x1b[2J\x7f"])
def test_an_empty_question_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(TwofoldError, match="empty; ask something like"):
        assistant.check_question(text)


def test_a_question_is_cleaned_and_bounded() -> None:
    with pytest.raises(TwofoldError, match="200,000 characters, at most 20,000"):
        assistant.check_question("x" * 200_000)
    assert assistant.check_question("x" * 20_000) == "x" * 20_000
    assert assistant.check_question(" a\x00b\x1b[1;31mc\x07\x9bd\te\r\nf\x85 ") == "abcd\te\nf"
    assert assistant.check_question("price \ud83d of 😀 漢字") == "price ? of 😀 漢字"
    with pytest.raises(TwofoldError, match="empty"):
        list(stream(Request(""), Scripted(never)))
