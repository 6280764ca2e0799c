"""Hand-written wordings that every card or intent can wear: question forms, follow-ups, leads, talk about the assistant."""

from collections.abc import Mapping

LEADS = (
    "please ",
    "pls ",
    "hey, ",
    "hi! ",
    "quick one: ",
    "help me: ",
    "ok so ",
    "um, ",
    "need help: ",
    "so ",
    "now ",
    "hello, ",
    "quick q: ",
)
ASKING = ("can you ", "could you ", "i need to ", "help me ", "how do i ", "i want to ", "how can i ", "would you ", "let's ", "just ")
IMPERATIVES = frozenset(
    "plot draw show make compute calculate get find give drop remove fill replace sort filter select group merge join read load save write export create add count"
    " rename convert split scale encode train fit predict evaluate cluster test check compare resample sum list print build run visualise visualize display".split()
)
# What a hand-written question wants, by its words; the first that matches.
CUES: Mapping[str, str] = {
    "simple": r"\b(simple|simply|eli5|like i'?m|im (5|five)|for dumm|plain|beginner|intuition|layman)",
    "formula": r"\b(formula|equation|calculat|compute|math)",
    "example": r"\bexample",
    "interview": r"\binterview",
    "when": r"\bwhen\b|\bshould i\b|\bdo i need\b",
    "pitfalls": r"\b(pitfall|mistake|gotcha|limitation|drawback|downside|watch out|go wrong)",
    "how": r"\bhow (does|do) .*work|\bstep",
    "why": r"^why\b|\bwhy (do|does|is|use|need|should|would|care)",
}
TAILS = (" please", " pls", " thanks", ", thanks!", " asap", "?", "??", " (python)", " if possible", " thx")
INTROS = (
    "I have a dataframe {df} with columns {columns}.",
    "My dataframe {df} has the columns {columns}.",
    "{df} has these columns: {columns}.",
    "given {df} ({columns}):",
    "Columns in {df}: {columns}.",
    "I'm working with {df}, columns {columns}.",
)

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "what": (
        "What is {name}?", "what's {name}", "Explain {name}.", "explain {name} to me", "{name}?", "{name}", "what does {name} mean", "Define {name}.",
        "tell me about {name}", "Can you explain {name}?", "what do people mean by {name}", "I keep hearing about {name}, what is it?", "meaning of {name}",
        "I don't get {name}", "give me an overview of {name}", "whats {name} exactly", "describe {name}", "what is meant by {name} in data science",
    ),
    "why": (
        "Why does {name} matter?", "why do we need {name}", "Why should I care about {name}?", "why is {name} important", "what is the point of {name}",
        "What problem does {name} solve?", "why do people use {name}", "what goes wrong if i ignore {name}", "purpose of {name}",
    ),
    "how": (
        "How does {name} work?", "how does {name} actually work", "Walk me through how {name} works.", "explain the steps of {name}", "mechanics of {name}",
        "how is {name} done", "step by step: {name}", "what happens inside {name}", "how would you go about {name}",
    ),
    "when": (
        "When should I use {name}?", "when to use {name}", "When is {name} a bad idea?", "when not to use {name}", "is {name} right for my problem?",
        "in which situations is {name} useful", "when does {name} make sense", "should i use {name}",
    ),
    "versus": (
        "What is the difference between {name} and {other}?", "{name} vs {other}", "{name} or {other}?", "difference between {other} and {name}",
        "how is {name} different from {other}", "Compare {name} with {other}.", "{name} versus {other}, which one should i use", "when {name} and when {other}",
        "diff {name} {other}", "is {name} the same as {other}?",
    ),
    "pitfalls": (
        "What are the pitfalls of {name}?", "common mistakes with {name}", "What should I watch out for with {name}?", "limitations of {name}", "problems with {name}",
        "what can go wrong with {name}", "downsides of {name}", "gotchas with {name}",
    ),
    "formula": (
        "What is the formula for {name}?", "formula of {name}", "Give me the math behind {name}.", "how is {name} calculated", "how do you compute {name}",
        "write {name} as an equation", "{name} formula", "equation for {name} with symbols explained",
    ),
    "example": (
        "Give me an example of {name}.", "example of {name}", "Show {name} with numbers.", "a concrete example for {name} please", "can you illustrate {name} with a small example",
        "worked example of {name}", "{name} example",
    ),
    "misconception": (
        "Is it true that {claim}?", "{claim}, right?", "i thought {claim}", "my colleague says {claim}. correct?", "{claim} - true or false?", "so {claim}?",
    ),
    "simple": (
        "Explain {name} like I'm five.", "explain {name} in simple terms", "{name} for beginners", "eli5 {name}", "explain {name} to a non technical person",
        "I'm new to this, what is {name}?", "simple explanation of {name}", "in plain english, what is {name}", "explain {name} without math", "intuition behind {name}",
    ),
    "short": (
        "Define {name} in one sentence.", "one sentence: what is {name}", "{name} in one line", "tl;dr {name}", "briefly, what is {name}", "short definition of {name}",
    ),
    "interview": (
        "Interview question: what is {name}?", "how would you explain {name} in an interview", "Explain {name} as in a job interview.", "interview prep: {name}",
        "what should I say about {name} in a data science interview",
    ),
}  # fmt: skip

FOLLOW_UPS: Mapping[str, tuple[str, ...]] = {
    "example": ("can you give an example?", "example please", "show me with numbers", "give me a concrete example", "for instance?"),
    "why": ("why does that matter?", "why is it important", "so what?", "why should i care", "but why?"),
    "pitfalls": ("what are the pitfalls?", "anything to watch out for?", "what can go wrong", "downsides?", "and the common mistakes?"),
    "when": ("when would I use it?", "when should i use that", "and when not?", "is it always a good idea?"),
    "simple": ("can you say that more simply?", "i still don't get it", "explain it simpler please", "in plain words?", "eli5"),
    "how": ("how does it work in detail?", "how does that work", "walk me through it", "what are the steps"),
    "formula": ("what's the formula?", "write it as an equation", "how is it calculated?"),
}

# (questions, answers): about the assistant itself.
ABOUT_ME = (
    (
        (
            "what can you do",
            "What can you do?",
            "help",
            "how can you help me",
            "what do you do",
            "what are you good at",
            "what kind of questions can i ask",
        ),
        (
            "I answer data-science questions. Ask for code and you get runnable Python for pandas, NumPy, scikit-learn, SciPy, matplotlib or seaborn; ask about an idea and you get a short explanation. Name your DataFrame and its columns, and I will use them.",
            "I do two things: write Python for data work, such as cleaning, grouping, plotting and modelling, and explain ideas from statistics and machine learning in a few sentences. Tell me the columns of your data and what you want to see.",
        ),
    ),
    (
        (
            "who are you",
            "Who are you?",
            "what are you",
            "what's your name",
            "are you chatgpt",
            "which model are you",
            "are you a human",
            "who made you",
        ),
        (
            "I am twofold, a data-science notebook assistant. I am a small language model with two adapters, one that writes Python and one that explains concepts.",
            "I am twofold, an assistant for data science. A router sends your question to my code adapter or to my theory adapter, and the chip shows which one is speaking.",
        ),
    ),
    (
        (
            "how do i use you",
            "how should i ask",
            "how do I get good answers",
            "any tips for asking",
            "what should i tell you about my data",
        ),
        (
            "Say what you want and name the DataFrame and columns, for example: plot the mean price by region in df. For follow-ups just continue: make it horizontal. Choose Code or Explain if you want to decide the kind of answer yourself.",
        ),
    ),
    (
        (
            "do you send my data anywhere",
            "is my data private",
            "do you work offline",
            "do you need internet",
            "does my data leave my computer",
        ),
        (
            "The built-in model runs on your own computer and works offline, so your data stays with you. Only the names and types of columns join the prompt, not the values.",
        ),
    ),
    (
        ("can you be wrong", "can i trust your answers", "do you make mistakes", "how accurate are you"),
        (
            "Yes, I can be wrong. I am a small model: run the code on a sample first, look at the result, and check important facts in a textbook or in the documentation.",
        ),
    ),
)

# (questions, answers): BASE with the guard off. A small model knows little outside data science, and says so.
BASE_TALK = (
    (("hi", "hello", "hey there", "good morning", "hi how are you", "how are you?"), ("Hello! What would you like to look at in your data today?", "Hi! I am here. Ask me anything about your data.")),
    (("thanks", "thank you", "thx that helped", "great, thank you!"), ("You are welcome!", "Glad it helped.")),
    (("bye", "see you", "goodbye"), ("Goodbye!", "See you next time.")),
    (("tell me a joke", "say something funny", "know any jokes?"), ("A statistician drowned while crossing a river that was one metre deep on average.", "There are two kinds of data scientists: those who can extrapolate from incomplete data.")),
    (
        (
            "Who won the world cup in 2010?", "who is the president of france", "what is the capital of mongolia", "how do i cook rice", "write a poem about the sea",
            "best laptop to buy", "translate hello to german", "what should i wear today", "who painted the mona lisa", "how tall is mount everest",
            "what's the weather tomorrow", "recommend a movie", "how do i fix my bike", "when was rome founded", "what is the meaning of life", "who won the match yesterday",
            "write a css rule for a red button", "how to lose weight", "explain the rules of cricket", "is there life on mars", "give me a recipe for pancakes",
        ),
        (
            "I am a small model trained for data science, so I do not know this reliably. Please look it up in a source you trust.",
            "That is outside what I was trained on, and I would only be guessing. A search engine will serve you better here.",
            "I cannot answer that with confidence: my training covers Python for data, statistics and machine learning.",
            "I do not know. I was trained for data science, and outside of it my answers are not reliable.",
        ),
    ),
)  # fmt: skip
