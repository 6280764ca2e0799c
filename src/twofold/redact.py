"""What an error may tell the model of the user's data: nothing that it quotes.

Messages such as `could not convert string to float: 'Ada'` hold cells. Below the sharing level "values" a word of an error is kept only
when it stands in text that the model sees anyway (code, schema, question) or belongs to the vocabulary of error messages; numbers
likewise. All else becomes an ellipsis. So nothing can pass that is not on a list, whatever library wrote the message.
"""

import builtins
import re
from functools import cache

GAP = "…"
_PART = re.compile(r"[^\W\d]\w*|\w+(?:\.\w+)*")
_PLACE = re.compile(r'(^ *File "<cell>", line \d+|\Aline \d+)', re.M)
_GAPS = re.compile(rf"{GAP}(?:[\s,;:/+\-.'\"]*{GAP})+")
_WORDS = """
a all already also ambiguous an and any appropriate are argument arguments arithmetic array arrays as assign assigned at attempt attribute
axes axis be because been before bin bool boolean both bounds broadcast but by call callable called can cannot case cast categories
category cell changed character characters choose closed code codec column columns compare complex compute contains convert converted
converting coordinate copy correct could count currently data dataframe date datetime decode default defined did dimension dimensions
directory divide division do does domain dtype dtypes duplicate duplicated elements empty encode encountered end enough entries equal
error estimator even exactly exceeds exist existing expect expected exponent extra factor failed fails feature features file fill finite
first fit fitted float floating for format found frame frequency from full function given greater group grouper groups had has hashable
have header identical ignore illegal importing in incomplete inconsistent incorrect indentation index indexer indexes indexing indices inf
infinity input inputs instance instead int integer integers invalid is it item items iterable iteration kernel key keys keyword known
label labels larger last left length lengths less level lexsort limit line list literal local long lower many mapping match matched
matching max maximum merge method min minimum missing mixed mode module more most multiple must name named names nan negative neither
nested never new no non none nonzero nor not null number numeric object objects of on one only operand operands operation operator option
or order other otherwise out outside overflow overlap parse parser pass passed perform point positional positive possible provided raise
random range reached read reading received reduction reference requested required requires reserved reshape resource result returned right
row rows same sample samples scalar seem seen sequence series set shape shapes should sign single size sizes slice some sort sorted
specified specify start starting step still store str string strings subscript subscriptable such sum supplied support supported syntax
takes target than that the their there this time timestamp to together too training transform truth try trying tuple type types unable
unbound underflow unequal unexpected unhashable unicode unindent unique unknown unless unmatched unsorted unsupported unterminated until
upper use used using valid value values variable version view want warning was were what when where which while width with within without
write wrong x y yet you your zero
numpy pandas sklearn scipy statsmodels matplotlib seaborn core exceptions errors linalg
NotFittedError ParserError MergeError UndefinedVariableError InvalidIndexError IndexingError OutOfBoundsDatetime LinAlgError AxisError
IntCastingNaNError EmptyDataError SpecificationError DataError UFuncTypeError PatsyError ConvergenceWarning ModelNotFittedError
DateParseError IncompatibleFrequency InvalidComparison
""".split()  # noqa: SIM905  word lists read best as text


@cache
def _vocabulary() -> frozenset[str]:
    """Words of error messages, and Python's own names."""
    return frozenset(word.casefold() for word in (*_WORDS, *dir(builtins), "traceback", "recent", "module"))


def redact(error: str, known: str) -> str:
    """An error without the words and numbers that stand neither in `known` nor in the vocabulary of error messages."""
    allowed = _vocabulary() | {part.casefold() for part in _PART.findall(known)}

    def kept(match: re.Match[str]) -> str:
        word = match[0]
        return word if word.casefold() in allowed else GAP

    parts = _PLACE.split(error)
    text = "".join(part if place % 2 else _PART.sub(kept, part) for place, part in enumerate(parts))
    return _GAPS.sub(GAP, text)
