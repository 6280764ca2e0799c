"""Models of scikit-learn."""

from typing import NamedTuple

from twofold.datasets.compose.draw import Draw, Task, quoted, text


class Model(NamedTuple):
    """A model: how it is called, its class in sklearn, the arguments it is made with."""

    said: str
    name: str
    module: str
    arguments: str = ""


class Score(NamedTuple):
    """A score: how it is called, its function in sklearn.metrics, its name for cross-validation ("" where there is none)."""

    said: str
    function: str
    scoring: str


FOREST = "n_estimators=50, random_state=0"
REGRESSORS = (
    Model("linear regression", "LinearRegression", "linear_model"),
    Model("ridge regression", "Ridge", "linear_model", "alpha=1.0"),
    Model("lasso", "Lasso", "linear_model", "alpha=0.1"),
    Model("random forest", "RandomForestRegressor", "ensemble", FOREST),
    Model("gradient boosting", "GradientBoostingRegressor", "ensemble", FOREST),
    Model("decision tree", "DecisionTreeRegressor", "tree", "max_depth=4, random_state=0"),
    Model("knn", "KNeighborsRegressor", "neighbors", "n_neighbors=5"),
    Model("svr", "SVR", "svm"),
)
CLASSIFIERS = (
    Model("logistic regression", "LogisticRegression", "linear_model", "max_iter=1000"),
    Model("random forest", "RandomForestClassifier", "ensemble", FOREST),
    Model("gradient boosting", "GradientBoostingClassifier", "ensemble", FOREST),
    Model("decision tree", "DecisionTreeClassifier", "tree", "max_depth=4, random_state=0"),
    Model("knn", "KNeighborsClassifier", "neighbors", "n_neighbors=5"),
    Model("svm", "SVC", "svm"),
    Model("naive bayes", "GaussianNB", "naive_bayes"),
    Model("extra trees", "ExtraTreesClassifier", "ensemble", FOREST),
)
SCALED = ("LogisticRegression", "Ridge", "Lasso", "KNeighborsRegressor", "KNeighborsClassifier", "SVC", "SVR")  # scaling helps these
ERRORS = (
    Score("MAE", "mean_absolute_error", "neg_mean_absolute_error"),
    Score("RMSE", "root_mean_squared_error", "neg_root_mean_squared_error"),
    Score("R2", "r2_score", "r2"),
)
HITS = (
    Score("accuracy", "accuracy_score", "accuracy"),
    Score("F1", "f1_score", "f1"),
    Score("confusion matrix", "confusion_matrix", ""),
    Score("balanced accuracy", "balanced_accuracy_score", "balanced_accuracy"),
)

CROSS_VALIDATED = (
    "{k}-fold cross-validated {s} of a {w} predicting {y} from {x}"
    "|cross validate a {w} ({k} folds) for {y} with features {x}, report {s}"
    "|{w} for {y} using {x}, {k}-fold cv, {s}"
)
HELD_OUT = (
    "train a {w} to predict {y} from {x} and report the {s}|predict {y} with a {w} using {x}, show {s} on the test set"
    "|fit a {w} on {x} for {y}, {p} test data, print the {s}|{w}: target {y}, features {x}, what's the {s}?"
    "|build a {w} model for {y} based on {x} and evaluate with {s}|can a {w} predict {y} from {x}? {s} please"
)


def model(draw: Draw) -> Task | None:
    """A scikit-learn model on named features, held-out or cross-validated, with a named score."""
    rng = draw.rng
    binary, numbers = draw.names("binary"), draw.names("float", "int")
    classify = bool(binary) and rng.random() < 0.55
    target = binary[0] if classify else numbers.pop()
    features = numbers[: rng.randint(1, min(9, len(numbers)))]
    chosen = rng.choice(CLASSIFIERS if classify else REGRESSORS)
    score = rng.choice(HITS if classify else ERRORS)
    share = rng.choice((0.2, 0.25, 0.3))
    scaled = chosen.name in SCALED and rng.random() < 0.4
    said = {"w": chosen.said, "x": draw.listed(features), "y": draw.said(target), "s": score.said, "p": f"{share * 100:.0f}%"}
    imports = [f"from sklearn.{chosen.module} import {chosen.name}"]
    made = f"{chosen.name}({chosen.arguments})"
    if scaled:
        imports += ["from sklearn.pipeline import make_pipeline", "from sklearn.preprocessing import StandardScaler"]
        made = f"make_pipeline(StandardScaler(), {made})"
    if rng.random() < 0.3 and score.scoring:
        folds = said["k"] = draw.pick("3|5|10")
        ask = draw.pick(CROSS_VALIDATED)
        imports.append("from sklearn.model_selection import cross_val_score")
        sign = "-" if score.scoring.startswith("neg") else ""
        body = f'scores = {sign}cross_val_score({made}, X, y, cv={folds}, scoring="{score.scoring}")\nprint(scores.mean())'
    else:
        ask = draw.pick(HELD_OUT)
        imports += [f"from sklearn.metrics import {score.function}", "from sklearn.model_selection import train_test_split"]
        body = _held_out(made, score.function, share if "{p}" in ask else 0.2, classify)
    if scaled:
        ask += draw.pick(", scale the features|, with standardised inputs|, standardise first")
    data = f"data = {draw.df}[{quoted([*features, target])}].dropna()\nX, y = data[{quoted(features)}], data[{text(target)}]"
    code = "\n".join([*sorted(imports), "", data, body])
    return Task(draw.fill(ask, **said), code, "assert _out.strip()\n")


def _held_out(made: str, function: str, share: float, stratified: bool) -> str:
    """The code that fits a model on one part of X and y and scores it on the other."""
    stratify = ", stratify=y" if stratified else ""
    return f"""\
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size={share}, random_state=0{stratify})
model = {made}
model.fit(X_train, y_train)
print({function}(y_test, model.predict(X_test)))"""
