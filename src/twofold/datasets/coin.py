"""Made-up frames and names: what a row speaks of is then nowhere but in its prompt, so that reading pays and reciting does not."""

import random
import re
from collections.abc import Mapping, Sequence
from keyword import iskeyword

from twofold.datasets.rows import Frame
from twofold.twin import Column, column

# Last words of a column name, by kind.
HEADS: Mapping[str, tuple[str, ...]] = {
    "float": tuple(
        """
        price amount cost rate score weight height length width speed temp temperature pressure ratio share margin income salary
        fee value balance volume area distance duration hours minutes depth dose level density power energy load usage budget
        spend revenue profit discount tax rent yield humidity rainfall wind ph latency delay mass angle error index factor kwh
        km kg usd eur pct avg mean gpa bmi glucose cholesterol
        """.split()
    ),
    "int": tuple(
        """
        count qty quantity age year visits clicks orders items units points goals rooms floors seats views likes calls steps
        days weeks months tenure children employees errors attempts votes wins rank size stock trips passengers sessions
        downloads shares pages tickets n num total population beds doors reviews returns students
        """.split()
    ),
    "cat": tuple(
        """
        type group region category status segment class kind city country state department team channel brand model colour color
        grade plan tier source method stage shift zone site role gender species material genre sector platform device browser
        language currency route carrier vendor supplier store branch unit mode quality priority
        """.split()
    ),
    "binary": tuple(
        """
        flag active churned paid passed default clicked converted survived returned approved fraud late smoker member subscribed
        is_new has_loan won failed responded target label outcome success holiday promo defect sick left
        """.split()
    ),
    "date": tuple(
        """
        date day time timestamp created_at updated_at start end when dt date_time logged_at opened closed arrival
        """.split()
    ),
    "datestr": tuple(
        """
        date_text date_str day_str raw_date recorded entry_date dob joined due reported_on
        """.split()
    ),
    "text": tuple(
        """
        text comment review note notes description title message feedback remark subject summary
        """.split()
    ),
    "id": tuple(
        """
        id key code no number uid ref pk
        """.split()
    ),
}
# First words of a column name: what it belongs to.
THINGS = tuple(
    """
    order customer product store unit net gross total avg max min base daily weekly monthly annual start final first last prev new
    old home away left right upper lower front rear inner outer north south east west shop web app email call ship cargo truck
    train flight hotel room guest patient nurse ward lab test exam course school teacher student club player match season team
    coach race lap bike car engine tyre fuel road bridge river lake soil crop farm cow milk tree leaf petal stem seed bird fish
    wing shell rock mine steel paper glass wood fabric paint sensor pump valve motor panel battery server node query page ad
    campaign lead deal contract claim policy loan card bank fund bond trade tax song album artist film actor book author game
    level quest user visitor member staff worker job task sprint bug build menu meal dish wine coffee tea bread sugar salt blood
    heart sleep step run swim gym tax rent house flat garden
    """.split()
)
NONSENSE = tuple(
    """
    zor mik tal ven qua bre lox fen gri sul dap kor nim pel rud tov wex yar hub cal jun ost vim arg
    """.split()
)
FRAMES = tuple(
    """
    data raw tbl records table log logs sample frame dataset export results measurements survey events history d dat main sales_df
    train_df users_df clean panel obs readings entries register inventory ledger batch report figures info
    """.split()
)
LEVELS = tuple(
    tuple(group.split("|"))
    for group in """
    red|green|blue|black|white small|medium|large low|medium|high A|B|C|D yes|no Mon|Tue|Wed|Thu|Fri north|south|east|west
    Oslo|Lima|Cairo|Delhi|Quito Berlin|Madrid|Rome|Paris gold|silver|bronze open|closed|pending new|used|refurbished
    morning|evening|night online|store|phone basic|plus|pro train|bus|car|bike M|F cash|card|transfer oak|pine|birch|maple
    rock|jazz|folk|pop Q1|Q2|Q3|Q4 junior|senior|lead in|out alpha|beta|gamma rural|urban|suburban never|sometimes|often
    single|married|divorced DE|FR|ES|IT|PL EU|US|APAC control|treatment pass|fail cat|dog|rabbit wheat|rice|maize
    Acme|Globex|Initech Linux|Windows|macOS spring|summer|autumn
    """.split()
)
RANGES = ((0, 1), (0, 10), (0, 100), (1, 5), (10, 60), (15, 900), (100, 5000), (1000, 90000), (-20, 40), (0.5, 3.5))
SPANS = (
    ("2020-01-01", "D"),
    ("2023-03-05", "D"),
    ("2019-06-01", "W"),
    ("2021-01-01", "12h"),
    ("2015-01-01", "MS"),
    ("2024-02-01", "3D"),
    ("2022-11-10", "6h"),
)


def _styled(words: Sequence[str], style: str) -> str:
    if style == "camel":
        return words[0].lower() + "".join(word.capitalize() for word in words[1:])
    if style == "pascal":
        return "".join(word.capitalize() for word in words)
    if style == "upper":
        return "_".join(words).upper()
    if style == "spaced":
        return " ".join(word.capitalize() for word in words)
    return "_".join(words)


def styled(name: str, style: str) -> str:
    """A column's name in snake, camel, pascal, upper or spaced style."""
    return _styled([word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+", name)] or [name], style)


def name(kind: str, rng: random.Random, style: str) -> str:
    """A fresh column name for a kind of column, in snake, camel, pascal, upper or spaced style."""
    head = rng.choice(HEADS[kind]).split("_")
    drawn = rng.random()
    if drawn < 0.22:
        words = head
    elif drawn < 0.72:
        words = [rng.choice(THINGS), *head]
    elif drawn < 0.80:
        words = [rng.choice(THINGS), rng.choice(THINGS), *head]
    elif drawn < 0.9:
        words = [*head, rng.choice(("1", "2", "3", "2023", "2024", "x", "b", "v2", "adj", "std", "raw"))]
    else:
        words = ["".join(rng.sample(NONSENSE, rng.choice((1, 2)))), *(head if rng.random() < 0.4 else [])]
    if style == "snake" and rng.random() < 0.08:
        words = [word[:3] if len(word) > 4 else word for word in words]  # abbreviations: cus_amo
    return _styled(words, style)


def spec(kind: str, rng: random.Random) -> str:
    """The line of a frames file that gives such a column values."""
    mark = "?" if rng.random() < 0.2 and kind in ("float", "cat", "int") else ""
    if kind in ("float", "int"):
        low, high = rng.choice(RANGES if kind == "float" else RANGES[1:8])
        return f"{kind}{mark} {low} {high}" if kind == "float" else f"int {int(low)} {int(high)}"
    if kind == "cat":
        if rng.random() < 0.2:
            found = [rng.choice(NONSENSE).capitalize() + rng.choice(("a", "o", "ix", "en", "ia")) for _ in range(4)]
        else:
            found = list(rng.choice(LEVELS))
        found = list(dict.fromkeys(found))
        return f"cat{mark} " + "|".join(found[: rng.randint(min(3, len(found)), len(found))])
    if kind == "binary":
        return f"binary {rng.choice((0.2, 0.3, 0.4, 0.5))}"
    if kind in ("date", "datestr"):
        return f"{kind} {' '.join(rng.choice(SPANS))}"
    return kind


def _frame(called: str, kinds: Sequence[str], rng: random.Random, style: str) -> Frame:
    made: dict[str, Column] = {}
    for kind in kinds:
        fresh = name(kind, rng, style)
        while fresh in made or fresh.isdigit() or fresh[0].isdigit() or iskeyword(fresh) or fresh in _RESERVED:
            fresh = name(kind, rng, style)
        made[fresh] = column(fresh, spec(kind, rng))
    return Frame(called, tuple(made.values()))


_RESERVED = frozenset(
    ("index", "class", "size", "count", "rank", "mode", "mean", "time", "n")
)  # words that mean something else to pandas or Python


def frame(rng: random.Random, spaced: bool = False, wide: bool = False) -> Frame:
    """One made-up frame with at least one column of each common kind. spaced: names may hold blanks. wide: 10-16 columns."""
    style = rng.choices(("snake", "camel", "pascal", "upper", "spaced"), (62, 10, 9, 5, 14 if spaced else 0))[0]
    more = rng.randint(4, 9) if wide else rng.randint(0, 4)
    kinds = [
        "float",
        "float",
        "int",
        "cat",
        "cat",
        "date",
        *rng.choices(("float", "int", "cat", "binary", "date", "text", "datestr"), (5, 4, 4, 2, 1, 1, 1), k=more),
    ]
    rng.shuffle(kinds)
    return _frame(rng.choice(FRAMES), ["id", *kinds] if rng.random() < 0.6 else kinds, rng, style)


def world(rng: random.Random, spaced: bool = False) -> dict[str, Frame]:
    """Two made-up frames that share a key, rich enough for nearly any intent: the first points into the second."""
    style = rng.choices(("snake", "camel", "pascal", "upper", "spaced"), (64, 10, 8, 4, 14 if spaced else 0))[0]
    kinds = [*("float",) * rng.randint(3, 4), *("int",) * 2, *("cat",) * rng.randint(2, 3), "binary", "date"]
    kinds += [kind for kind, likely in (("date", 0.3), ("binary", 0.3), ("datestr", 0.4), ("text", 0.5)) if rng.random() < likely]
    rng.shuffle(kinds)
    one, two = rng.sample(FRAMES, 2)
    key = _styled([rng.choice(THINGS), "id"], "snake" if style in ("spaced", "upper") else style)
    main = _frame(one, ["id", *kinds], rng, style)
    other = _frame(two, [*("float",) * 2, "int", *("cat",) * 2], rng, style)
    free = tuple(col for col in main.columns if col.name != key)
    return {
        one: Frame(one, (free[0], column(key, f"ref {two}"), *free[1:])),
        two: Frame(two, (column(key, "id"), *(col for col in other.columns if col.name != key))),
    }


def word(rng: random.Random) -> str:
    """A fresh name for a new column."""
    return rng.choice(
        (
            f"{rng.choice(THINGS)}_{rng.choice(HEADS['float'])}",
            f"{rng.choice(HEADS['float'])}_{rng.choice(THINGS)}",
            f"{rng.choice(NONSENSE)}{rng.choice(NONSENSE)}",
            f"new_{rng.choice(HEADS['int'])}",
        )
    )


# Invented concept names for cards, so that an explanation must come from the card at hand.
FIRST = tuple(
    """
    strand lattice mirror drift harbour ladder quill ripple tandem velvet willow cinder delta fathom granite hollow
    juniper kestrel lantern meadow nimbus pebble russet saffron thistle vesper
    """.split()
)
SECOND = tuple(
    """
    sifting pairing folding scoring balancing blending tracing anchoring weighting sorting matching smoothing probing rule index
    bound test gap score map filter law effect ratio spread method curve check
    """.split()
)


def concept(rng: random.Random) -> str:
    """An invented name for a concept, such as "lantern weighting"."""
    return f"{rng.choice(FIRST)} {rng.choice(SECOND)}"
