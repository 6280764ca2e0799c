"""What a cell says reaches the assistant as it was typed; options and references are read, nothing else."""

import pandas as pd
import pytest

from twofold.cells import Book, Failure, moved, options, resolve, verbatim, without_magics
from twofold.types import SHARES, Share, TwofoldError

KNOWN = {"-m": True, "--adapter": True, "--no-guard": False, "-o": True}


def lines(cell: str) -> str:
    return "".join(verbatim(cell.splitlines(keepends=True)))


@pytest.mark.parametrize(
    ("cell", "made"),
    [
        ("%ask what is {x}?", "get_ipython().run_line_magic('ask', 'what is {x}?');"),
        ("r = %ask a \\\n", "r = get_ipython().run_line_magic('ask', 'a \\\\');\n"),
        ("for q in qs:\n    %fix\n", "for q in qs:\n    get_ipython().run_line_magic('fix', '');\n"),
        ("%ask it's\n%ask [\n", "get_ipython().run_line_magic('ask', \"it's\");\nget_ipython().run_line_magic('ask', '[');\n"),
        ("%%ask -m code\n>>> x\n", "get_ipython().run_cell_magic('ask', '-m code', '>>> x\\n');\n"),
        ("\n%%explain\nx = 1", "get_ipython().run_cell_magic('explain', '', 'x = 1');\n"),
        ("%%ask why?\n", "get_ipython().run_line_magic('ask', 'why?');\n"),
    ],
)
def test_lines_become_calls_that_hold_the_text(cell: str, made: str) -> None:
    assert lines(cell) == made


@pytest.mark.parametrize(
    "cell",
    ['"""\n%ask no\n"""', "f(\n%ask\n)", "%%time\n%ask x", "x = 5 %ask", "%asking x", "%timeit x", "", "%ask?", "%%ask?", "!ls 'x\ny = 1"],
)
def test_what_is_not_ours_stays(cell: str) -> None:
    assert lines(cell) == cell


@pytest.mark.parametrize(
    ("line", "given", "rest"),
    [
        ("-m code --no-guard plot {x}", {"-m": "code", "--no-guard": ""}, "plot {x}"),
        ("--adapter=finance it's 5\\n", {"--adapter": "finance"}, "it's 5\\n"),
        ('-o "my name" -x why', {"-o": "my name"}, "-x why"),
        ("-3 % a year", {}, "-3 % a year"),
        ("-- --adapter what?", {}, "--adapter what?"),
        ("plot -m code", {}, "plot -m code"),
        ("--", {}, ""),
        ("", {}, ""),
    ],
)
def test_options_end_where_the_question_begins(line: str, given: dict[str, str], rest: str) -> None:
    assert options(line, KNOWN) == (given, rest)


def test_wrong_options_are_said() -> None:
    with pytest.raises(TwofoldError, match="no option --adaptor; there are -m"):
        options("--adaptor x", KNOWN)
    with pytest.raises(TwofoldError, match="-m needs a value"):
        options("-m", KNOWN)


FRAME = pd.DataFrame({"pay": [99173.5, 88261.5]})
FAILED = Failure("df['pay'].astype(float)", "ValueError: could not convert string to float: 'Ada'")
BOOK = Book({"df": FRAME, "n": 5}, ("", "import pandas as pd", "df.head()"), {2: FRAME, 3: 99173.5, 4: "Ada"}, FAILED)


def test_a_frame_is_pointed_at_and_everything_else_stays() -> None:
    text = "plot @df with @property, a@df, `@df`, x @ df, me@df.com, @n and @@df"
    assert resolve(text, BOOK, "schema") == (text.replace("plot @df", "plot df"), ("df",))


@pytest.mark.parametrize("share", ["schema", "values"])
def test_cells_outputs_and_the_error_are_put_below(share: Share) -> None:
    text, named = resolve("why does @In[1] give @Out[2], @Out[3], @Out[4] and @Err? @In[1]", BOOK, share)
    assert named == ()
    question, first, second, *_ = text.split("\n\n")
    assert question == "why does In[1] give Out[2], Out[3], Out[4] and Err? In[1]"
    assert first == "In[1]:\n```python\nimport pandas as pd\n```"
    assert second.startswith("Out[2]: 2 rows; pay float64")
    assert ("99173" in text) == ("Ada" in text) == (share == "values")
    assert "df['pay'].astype(float)" in text


def test_sharing_nothing_holds_back_what_is_pointed_at() -> None:
    text, _ = resolve("@Out[2] @Out[3] @Err", BOOK, "nothing")
    assert "Out[2]: not shared" in text
    assert "rows" not in text
    assert "99173" not in text


@pytest.mark.parametrize(
    ("text", "words"), [("@In[9]", "no cell In.9.; the last is In.2."), ("@Out[1]", "left no output"), ("@Err", "no cell has failed")]
)
def test_what_is_not_there_is_said(text: str, words: str) -> None:
    with pytest.raises(TwofoldError, match=words):
        resolve(text, Book({}, BOOK.inputs, {}), "schema")


def test_long_cells_are_cut_in_the_middle() -> None:
    text, _ = resolve("@In[1]", Book({}, ("", "x = 1\n" * 5000)), "schema")
    assert len(text) < 2200
    assert "# ..." in text


def test_lines_of_ipython_are_kept_apart() -> None:
    assert without_magics("%matplotlib inline\n\n!ls\nx = 1\n%time y\n") == ("%matplotlib inline\n\n!ls\n", "x = 1\n%time y\n")
    assert without_magics("x") == ("", "x")
    assert moved('  File "<cell>", line 5\nline 5', 3) == '  File "<cell>", line 2\nline 5'


def test_an_error_keeps_what_the_level_tells_and_loses_the_rest() -> None:
    frame = pd.DataFrame({"grade": ["Quux", "Zanzibar"] * 10, "who": [f"Canary{n}x" for n in range(20)]})
    error = "ValueError: could not convert string to float: 'Quux' in grade, nor 'Canary3x'"
    book = Book({"frame": frame}, failure=Failure("frame.astype(float)", error))
    shown = {share: resolve("why @Err", book, share)[0] for share in SHARES}
    assert {share: [word for word in ("grade", "Quux", "Canary3x") if word in text] for share, text in shown.items()} == {
        "nothing": [],
        "schema": ["grade"],
        "levels": ["grade", "Quux"],
        "values": ["grade", "Quux", "Canary3x"],
    }
