"""Honest cells that must give in the sandbox what they give without it. As a program: runs each in a plain fork of this process and prints the results.

Each finds `df` (300 rows: city, age, income, score, day, bought), `small` and a file sales.csv. A cell's result is its stdout and the repr of its last line.
"""
# ruff: noqa: E501, SIM905, F401, I001  a cell is a line; libraries are imported to be there

import contextlib
import io
import json
import os
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any

SALES = "region,month,units,price\n" + "".join(f"{'NSEW'[i % 4]},{i % 12 + 1},{i * 7 % 50},{i % 9 + 0.5}\n" for i in range(120))

CELLS = [one.strip() for one in r'''
df.groupby("city")["income"].mean().round(3)
### df.groupby(["city", "bought"]).agg(n=("age", "size"), top=("income", "max"))
### df.describe().round(2)
### df.dtypes
### df.info()
### df.sort_values("income", ascending=False).head(5)[["city", "income"]]
### df.nlargest(3, "age")
### df["city"].value_counts(normalize=True)
### df.pivot_table(index="city", columns="bought", values="score", aggfunc="mean").round(3)
### df.merge(small, on="city", how="left")[["city", "country"]].drop_duplicates().sort_values("city").reset_index(drop=True)
### import pandas as pd
pd.concat([df.head(2), df.tail(2)], ignore_index=True)
### import pandas as pd
pd.crosstab(df["city"], df["bought"])
### import pandas as pd
pd.cut(df["age"], bins=[0, 30, 50, 120], labels=["young", "middle", "old"]).value_counts()
### df.set_index("day")["income"].resample("ME").sum().round(1)
### df.assign(month=df["day"].dt.month).groupby("month")["score"].median().round(3)
### df["income"].rolling(7).mean().tail(3).round(3)
### df.isna().sum()
### df["score"].fillna(df["score"].median()).sum().round(3)
### df.query("age > 40 and city == 'Oslo'").shape
### df.melt(id_vars="city", value_vars=["age", "income"]).groupby("variable")["value"].mean().round(3)
### df["city"].str.upper().str.slice(0, 3).unique()
### df.select_dtypes("number").corr().round(4)
### df.drop_duplicates("city").shape, df.sample(5, random_state=1).index.tolist()
### df.to_csv("out.csv", index=False)
import pandas as pd
pd.read_csv("out.csv").shape
### df.to_parquet("out.parquet")
import pandas as pd
pd.read_parquet("out.parquet").equals(df)
### df.to_json("out.json", orient="records")
import pandas as pd
pd.read_json("out.json").shape
### df.head(20).to_excel("out.xlsx", index=False)
import pandas as pd
pd.read_excel("out.xlsx")["city"].tolist()[:3]
### import pandas as pd
sales = pd.read_csv("sales.csv")
sales.groupby("region")["units"].sum()
### import csv
with open("sales.csv") as file: rows = list(csv.DictReader(file))
len(rows), rows[3]
### import sqlite3, pandas as pd
with sqlite3.connect("data.db") as base:
    df[["city", "age"]].to_sql("people", base, index=False)
    print(pd.read_sql("select city, avg(age) a from people group by city order by city", base).round(3))
### import tempfile
with tempfile.NamedTemporaryFile("w+", suffix=".txt") as file:
    file.write("x"); file.flush(); file.seek(0); print(file.read())
### import tempfile, os
with tempfile.TemporaryDirectory() as folder:
    open(os.path.join(folder, "a.txt"), "w").write("abc"); print(os.listdir(folder))
### from pathlib import Path
import shutil
Path("a").mkdir(); Path("a/b.txt").write_text("hello"); shutil.copy("a/b.txt", "a/c.txt"); shutil.copy2("a/b.txt", "a/d.txt")
shutil.make_archive("z", "zip", "a"); print(sorted(p.name for p in Path("a").iterdir())); shutil.rmtree("a"); Path("a").exists()
### import zipfile, io
box = io.BytesIO()
with zipfile.ZipFile(box, "w") as z: z.writestr("a.csv", "x\n1\n")
import pandas as pd
pd.read_csv(zipfile.ZipFile(box).open("a.csv"))
### import pickle
pickle.loads(pickle.dumps(df)).equals(df)
### import joblib
joblib.dump(df, "frame.joblib"); joblib.load("frame.joblib").shape
### import numpy as np
rng = np.random.default_rng(3); a = rng.normal(size=(200, 4)); np.linalg.svd(a, compute_uv=False).round(6)
### import numpy as np
np.save("a.npy", np.arange(10)); np.load("a.npy", mmap_mode="r").sum()
### import numpy as np
np.random.seed(0); np.random.rand(3).round(6), np.polyfit([1, 2, 3], [2, 4, 6.5], 1).round(6)
### from sklearn.ensemble import RandomForestClassifier
m = RandomForestClassifier(20, random_state=0, n_jobs=-1).fit(df[["age", "income"]], df["bought"]); m.score(df[["age", "income"]], df["bought"])
### from sklearn.ensemble import RandomForestRegressor
m = RandomForestRegressor(10, random_state=0, n_jobs=-1).fit(df[["age"]], df["income"]); m.predict(df[["age"]])[:3].round(4)
### from sklearn.model_selection import cross_val_score
from sklearn.linear_model import LogisticRegression
cross_val_score(LogisticRegression(max_iter=500), df[["age", "income"]], df["bought"], cv=5).round(6)
### from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier
cross_val_score(DecisionTreeClassifier(random_state=0), df[["age", "income"]], df["bought"], cv=3, n_jobs=-1).round(6)
### from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
g = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [3, 5]}, cv=3, n_jobs=2).fit(df[["age", "income"]], df["bought"]); g.best_params_
### from sklearn.model_selection import train_test_split
from sklearn.linear_model import LinearRegression
from sklearn.metrics import root_mean_squared_error
a, b, c, d = train_test_split(df[["age"]], df["income"], random_state=0); round(root_mean_squared_error(d, LinearRegression().fit(a, c).predict(b)), 4)
### from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, OneHotEncoder
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
p = make_pipeline(make_column_transformer((OneHotEncoder(), ["city"]), (StandardScaler(), ["age", "income"])), LogisticRegression()); p.fit(df, df["bought"]).predict_proba(df)[:2].round(5)
### from sklearn.cluster import KMeans
sorted(KMeans(3, random_state=0, n_init=3).fit(df[["age", "score"]].fillna(0)).cluster_centers_[:, 0].round(3))
### from sklearn.decomposition import PCA
PCA(2).fit(df[["age", "income"]]).explained_variance_ratio_.round(6)
### from sklearn.datasets import load_iris
load_iris(as_frame=True).frame.groupby("target").mean().round(3)
### from sklearn.ensemble import HistGradientBoostingClassifier
HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(df[["age", "income"]], df["bought"]).predict(df[["age", "income"]]).sum()
### from sklearn.metrics import confusion_matrix, classification_report
print(classification_report([0, 1, 1, 0], [0, 1, 0, 0])); confusion_matrix([0, 1, 1, 0], [0, 1, 0, 0])
### from sklearn.impute import SimpleImputer
SimpleImputer().fit_transform(df[["score"]]).sum().round(3)
### from scipy import stats
t = stats.ttest_ind(df.loc[df["bought"] == 1, "income"], df.loc[df["bought"] == 0, "income"]); round(t.statistic, 5), round(t.pvalue, 5)
### from scipy import stats, optimize
stats.spearmanr(df["age"], df["income"]).statistic.round(6), optimize.minimize_scalar(lambda x: (x - 2) ** 2).x.round(5)
### import statsmodels.api as sm
sm.OLS(df["income"], sm.add_constant(df[["age"]])).fit().params.round(4)
### import statsmodels.formula.api as smf
smf.ols("income ~ age + C(city)", df).fit().rsquared.round(6)
### from statsmodels.tsa.seasonal import seasonal_decompose
seasonal_decompose(df["income"], period=7).trend.dropna().head(3).round(3)
### import matplotlib.pyplot as plt
plt.plot(df["day"], df["income"]); plt.title("Income"); plt.xlabel("day"); plt.ylabel("income"); plt.show()
len(plt.gcf().axes)
### import matplotlib.pyplot as plt
fig, ax = plt.subplots(1, 2, figsize=(8, 3)); ax[0].hist(df["age"]); ax[1].scatter(df["age"], df["income"]); plt.tight_layout(); plt.savefig("two.png"); import os; os.path.getsize("two.png") > 1000
### import seaborn as sns
sns.boxplot(data=df, x="city", y="income").get_ylabel()
### import seaborn as sns
sns.heatmap(df.select_dtypes("number").corr(), annot=True).get_title()
### import seaborn as sns
sns.pairplot(df[["age", "income", "bought"]].head(60), hue="bought", height=1).axes.shape
### df["age"].plot(kind="hist", bins=10).get_ylabel()
### df.groupby("city")["income"].mean().plot.bar(rot=0); import matplotlib.pyplot as plt; plt.ylabel("mean"); plt.gca().get_ylabel()
### import threading
found = []
threads = [threading.Thread(target=found.append, args=(i,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
sorted(found)
### from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool: print(sum(pool.map(lambda x: x * x, range(100))))
### import random, datetime, zoneinfo
random.seed(4); random.random(), datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Oslo")).isoformat()
### import re, json, collections, itertools, functools, statistics, decimal, fractions
json.dumps(collections.Counter(re.findall(r"\w", "hello"))), statistics.median([1, 5, 2]), decimal.Decimal("0.1") * 3
### from dataclasses import dataclass
@dataclass
class Point: x: int = 1
Point(2)
### import pyarrow as pa
pa.Table.from_pandas(df[["age"]]).num_rows
### import os, sys
os.cpu_count() > 0, sys.version_info[:2], os.path.exists(os.getcwd()), open(os.devnull, "w").write("x")
### import subprocess
try: subprocess.run
except Exception: pass
import logging, warnings
warnings.warn("careful"); logging.getLogger("x").error("told"); "done"
'''.split("\n###")]


def frames() -> dict[str, Any]:
    """The frames that the cells name."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        {
            "city": rng.choice(["Oslo", "Paris", "Quito"], 300),
            "age": rng.integers(18, 80, 300),
            "income": rng.normal(40_000, 9_000, 300).round(2),
            "score": np.where(rng.random(300) < 0.1, np.nan, rng.random(300).round(4)),
            "day": pd.date_range("2024-01-01", periods=300),
            "bought": rng.integers(0, 2, 300),
        }
    )
    return {"df": df, "small": pd.DataFrame({"city": ["Oslo", "Paris", "Quito"], "country": ["NO", "FR", "EC"]})}


def main() -> None:
    """Run every cell without any sandbox, each in a fork; print [[stdout, result], ...]."""
    import ast


    import joblib
    import matplotlib.pyplot
    import seaborn
    import sklearn.ensemble
    import statsmodels.api

    joblib.parallel_config(backend="threading")  # workers of their own would outlive the fork
    given = frames()
    results = []
    for cell in CELLS:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            signal.alarm(30)
            folder = tempfile.mkdtemp(prefix="twofold-honest-")
            os.chdir(folder)
            Path("sales.csv").write_text(SALES)
            out, last = io.StringIO(), ""
            try:
                tree = ast.parse(cell)
                end = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
                space: dict[str, Any] = {"__name__": "__main__", **given}
                with contextlib.redirect_stdout(out), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    exec(compile(tree, "<cell>", "exec"), space)  # noqa: S102
                    value = eval(compile(ast.Expression(end.value), "<cell>", "eval"), space) if end else None  # noqa: S307
                    last = "" if value is None else repr(value)
            except BaseException as error:  # noqa: BLE001
                last = f"failed: {error!r}"
            os.write(writer, json.dumps([out.getvalue(), last]).encode())
            os.chdir("/")
            __import__("shutil").rmtree(folder)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            results.append(json.loads(pipe.read() or '["", "no answer"]'))
        os.waitpid(child, 0)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
