"""`compare`: runs that differ in seeds are one setting, figures against numpy, differences against a hand loop, four formats, refusals."""

import copy
import csv
import io
import json
import re

import h5py
import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy import stats

from pipeline import compare, files, paired, runs, settings, tables
from pipeline.files import InputError
from pipeline.rows import differing, group
from tests.conftest import ROOT

LABELS = np.repeat(np.arange(4), (10, 20, 5, 15))
TREE = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def predict(rng, accuracy):
    """Predicted classes of which about this share is right."""
    return np.where(rng.random(len(LABELS)) < accuracy, LABELS, (LABELS + 1) % 4)


def mean_accuracy(labels, predicted):
    return 100 * np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)])


def make(path, seed=0, heads=("joint", "crt"), changes=None, schema="new"):
    """A folder as a run without DVC leaves it: params.yaml, a result for each head, predictions."""
    tree = copy.deepcopy(TREE)
    tree["seed"] = {"subset": seed, "train": seed, "heads": seed}
    tree["heads"] = {head: TREE["heads"].get(head, {"kind": head}) for head in heads}
    for name, value in (changes or {}).items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node[section]
        node[last] = value
    rng = np.random.default_rng([seed, *map(ord, str(sorted((changes or {}).items())))])
    (path / "data/results/heads").mkdir(parents=True)
    with (path / "params.yaml").open("w") as file:
        YAML().dump(tree, file)
    with h5py.File(path / "data/predictions.h5", "w") as file:
        file["labels"] = LABELS
        for place, head in enumerate(heads):
            predicted = predict(rng, 0.6 + 0.1 * place)
            if schema == "new":
                file[f"heads/{head}/predicted"] = predicted
                file[f"heads/{head}/confidence"] = np.ones(len(LABELS), np.float32)
                file[f"heads/{head}/rank"] = (predicted != LABELS).astype(np.int32)
            else:
                file[f"heads/{head}"] = predicted
            figures = {"many": round(rng.uniform(80, 99), 2), "medium": round(rng.uniform(60, 80), 2), "few": None}
            figures |= {
                "all": round(mean_accuracy(LABELS, predicted), 2),
                "ece": {"all": round(rng.uniform(1, 9), 2)},
                "selected_on": "nothing",
            }
            (path / f"data/results/heads/{head}.json").write_text(json.dumps(figures))
    (path / "data/results/provenance.json").write_text("{}")
    return path


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Three seeds of two losses, each in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for loss in ("ce", "graloss"):
        for seed in range(3):
            make(tmp_path / f"{loss}-{seed}", seed, changes={"train.loss": loss})
    return sorted(path.name for path in tmp_path.iterdir())


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["compare", *arguments])
    compare.main()
    return capsys.readouterr().out


def records(monkeypatch, capsys, *arguments):
    return list(csv.DictReader(io.StringIO(run(monkeypatch, capsys, *arguments, "--format", "csv"))))


def rows_of(*names):
    return group([result for found in runs.find(list(names)) for result in settings.results(found)])


def figure(name, head, column="all"):
    return json.loads(open(f"{name}/data/results/heads/{head}.json").read())[column]


def test_mean_and_spread_over_seeds_are_numpys(sweep, monkeypatch, capsys):
    for row in records(monkeypatch, capsys, *sweep):
        for column in ("many", "medium", "all"):
            values = [figure(f"{row['train.loss']}-{seed}", row["head"], column) for seed in range(3)]
            assert float(row[f"{column}_mean"]) == pytest.approx(np.mean(values), abs=1e-4)
            assert float(row[f"{column}_std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-4)
        assert row["n"] == "3"
        assert row["few_mean"] == row["few_std"] == ""
        assert row["runs"] == " ".join(f"{row['train.loss']}-{seed}" for seed in range(3))


def test_only_parameters_that_differ_are_columns_and_seeds_never(sweep, monkeypatch, capsys):
    assert list(records(monkeypatch, capsys, *sweep)[0])[:3] == ["train.loss", "head", "n"]  # and not losses.graloss.c
    make(runs.Path("slow"), changes={"train.lr": 0.05})
    make(runs.Path("softer"), changes={"heads.crt.epochs": 20})
    rows = rows_of(*sweep, "slow", "softer")
    assert differing(rows) == ["train.loss", "train.lr", "heads.crt.epochs"]
    # a parameter of crt makes no new setting of joint: its result is that of ce-0, counted once
    joint = [row for row in rows if row.head == "joint" and row.parameters["train.loss"] == "ce" and row.parameters["train.lr"] == 0.1]
    assert [len(row.results) for row in joint] == [3]
    assert [len(row.results) for row in rows if row.parameters.get("heads.crt.epochs") == 20] == [1]


def test_the_same_seeds_met_twice_count_once(sweep):
    make(runs.Path("again"), 0, changes={"train.loss": "ce"})
    rows = rows_of(*sweep, "again")
    assert [len(row.results) for row in rows] == [3] * 4


def test_one_seed_has_no_spread(sweep, monkeypatch, capsys):
    output = run(monkeypatch, capsys, "ce-0")
    assert "±" not in output
    assert f"{figure('ce-0', 'crt'):.2f}" in output
    row = records(monkeypatch, capsys, "ce-0")[0]
    assert row["n"] == "1" and row["all_std"] == "" and row["all_mean"] == str(figure("ce-0", "joint"))


def test_a_parameter_that_older_runs_lack_tells_them_apart(sweep):
    text = (runs.Path("ce-1") / "params.yaml").read_text()
    (runs.Path("ce-1") / "params.yaml").write_text(re.sub(r"  deterministic: true.*\n", "", text))
    rows = rows_of("ce-0", "ce-1")
    assert differing(rows) == ["train.deterministic"]
    assert len(rows) == 4


def lock(tau="t0", md5="c0", seed=0, extract="f0"):
    """A dvc.lock in small."""

    def stage(deps, params, outs):
        return {"deps": [{"path": p, "md5": m} for p, m in deps.items()], "params": {"params.yaml": params}, "outs": outs}

    heads = {"joint": {"kind": "joint"}, "tau": {"kind": "tau", "tau": 0.7}}
    stages = {
        "prepare": stage(
            {"/mnt/raw": "r0", "pipeline/prepare.py": "p0"},
            {"seed.subset": 0, "data": {"name": "digits", "root": "/mnt/raw"}},
            [{"path": "data/images.h5", "md5": "i0"}],
        ),
        "extract": stage(
            {"data/images.h5": "i0", "pipeline/extract.py": "e0"},
            {"extract": {"batch": 64}},
            [{"path": "data/features.h5", "md5": extract}],
        ),
        "evaluate": stage(
            {"data/features.h5": "f0", "data/heads": "h0.dir", "pipeline/evaluate.py": "v0"},
            {"evaluate": {"many": 50, "few": 10, "ensembles": {"both": ["joint", "tau"]}}, "heads": heads},
            [{"path": "data/predictions.h5", "md5": "abcdef"}],
        ),
    }
    for name, code in (("joint", "j0"), ("tau", md5)):
        fitted = [{"path": f"data/heads/{name}.safetensors", "md5": tau if name == "tau" else "joint"}]
        stages[f"head@{name}"] = stage(
            {"data/features.h5": "f0", f"pipeline/heads/{name}.py": code}, {f"heads.{name}": heads[name], "seed.heads": seed}, fitted
        )
    return {"stages": stages}


def locked(name, classifiers=None, **changes):
    found = {head: {"all": 50.0} for head in ("joint", "tau", "both")}
    return runs.Run(name, lock(**changes), None, found, classifiers or {}, runs.Path("none"))


def grouped(*found):
    return group([result for each in found for result in settings.results(each)])


def test_what_dvc_lock_says_counts():
    rows = {row.head: row for row in grouped(locked("first"))}
    assert rows["tau"].parameters == {
        "evaluate.many": 50,
        "evaluate.few": 10,
        "heads.tau.kind": "tau",
        "heads.tau.tau": 0.7,
        "extract.batch": 64,
        "data.name": "digits",
        "features": "data/features.h5",
    }
    assert list(rows["tau"].results) == [(("seed.heads", 0), ("seed.subset", 0))]
    assert rows["both"].parameters["evaluate.ensembles.both"] == "joint, tau"


def test_other_code_is_another_setting_for_what_depends_on_it():
    rows = grouped(locked("first"), locked("second", md5="c1", seed=1, tau="t1"))
    assert [(row.head, row.parameters.get("code"), len(row.results)) for row in rows] == [
        ("joint", None, 2),
        ("tau", 1, 1),
        ("tau", 2, 1),
        ("both", 1, 1),
        ("both", 2, 1),
    ]
    assert differing(rows) == ["code"]


def test_code_that_gave_the_same_bytes_is_the_same():
    """A changed file under which seed 0 fits the same classifier: results of either version are one setting."""
    found = grouped(locked("old"), locked("old-1", seed=1, tau="t1"), locked("new", md5="c1"), locked("new-2", md5="c1", seed=2, tau="t2"))
    assert [(row.head, row.parameters.get("code"), len(row.results), len(row.distinct())) for row in found] == [
        ("joint", None, 3, 1),
        ("tau", None, 3, 3),
        ("both", None, 3, 3),
    ]


def test_one_classifier_under_several_seeds_is_one():
    rows = {row.head: row for row in grouped(locked("first"), locked("second", seed=1, tau="t1"))}
    assert len(rows["joint"].results) == len(rows["tau"].results) == 2
    assert len(rows["joint"].distinct()) == 1  # its file is the same
    assert len(rows["tau"].distinct()) == 2


def test_a_run_under_way_is_left_out():
    assert list(settings.results(locked("first", extract="f1"))) == []


def test_a_head_fitted_again_since_it_was_judged_is_left_out():
    """As by `dvc repro head@tau` with another seed: its figures are those of the classifier before, and the ensemble's are."""
    found = settings.results(locked("first", {"joint": "joint", "tau": "t0"}, seed=1, tau="t1"))
    assert [result.head for result in found] == ["joint"]
    found = settings.results(locked("first", {"joint": "joint", "tau": "t1"}, seed=1, tau="t1"))
    assert [result.head for result in found] == ["joint", "tau", "both"]


def test_results_made_by_hand_since_are_not_those_of_dvc_lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "run")
    content = lock()
    for head in ("joint", "tau"):
        (tmp_path / f"run/data/results/heads/{head}.json").write_text('{"all": 50.0}')
    table = tmp_path / "run/data/results/accuracy.csv"
    table.write_text("head,split,accuracy\n")
    content["stages"]["evaluate"]["outs"].append({"path": "data/results/accuracy.csv", "md5": files.md5(table)})
    with (tmp_path / "run/dvc.lock").open("w") as file:
        YAML().dump(content, file)
    found = runs.find(["run"])[0]
    assert found.lock is not None and found.predictions != tmp_path / "run/data/predictions.h5"  # which that lock does not know
    content["stages"]["evaluate"]["outs"].append({"path": runs.PREDICTIONS, "md5": files.md5(tmp_path / "run" / runs.PREDICTIONS)})
    with (tmp_path / "run/dvc.lock").open("w") as file:
        YAML().dump(content, file)
    assert runs.find(["run"])[0].predictions == runs.Path("run/data/predictions.h5")
    table.write_text("head,split,accuracy\njoint,all,50.0\n")
    assert runs.find(["run"])[0].lock is None


def test_groups_of_one_name_and_other_classes_are_other_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, classes in enumerate(([0], [0], [1])):
        make(tmp_path / f"run-{seed}", seed, changes={"evaluate.groups": {"mine": {"classes": classes}}})
        for path in (tmp_path / f"run-{seed}/data/results/heads").iterdir():
            path.write_text(json.dumps(json.loads(path.read_text()) | {"groups": {"mine": 10.0 * seed}}))
    names = [f"run-{seed}" for seed in range(3)]
    assert [row["n"] for row in records(monkeypatch, capsys, *names)] == ["3", "3"]  # groups that are not shown make no difference
    found = records(monkeypatch, capsys, *names, "--columns", "groups.mine", "--heads", "joint")
    assert [(row["n"], row["groups.mine_mean"]) for row in found] == [("2", "5.0"), ("1", "20.0")]
    assert "evaluate.groups.mine" in found[0]


def test_thresholds_left_out_are_the_default_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "said", changes={"evaluate": {"many": 100, "few": 20}})
    make(tmp_path / "left", 1, changes={"evaluate": {}})
    make(tmp_path / "blank", 2, changes={"evaluate": None})
    assert [row["n"] for row in records(monkeypatch, capsys, "said", "left", "blank")] == ["3", "3"]


def test_terminal_columns_are_aligned_and_the_best_is_starred(sweep, monkeypatch, capsys):
    title, head, *lines = run(monkeypatch, capsys, *sweep).splitlines()
    assert "mean ± standard deviation" in title and "* best" in title
    assert re.split(r" {2,}", head) == ["train.loss", "head", "n", "many", "medium", "few", "all", "all − joint"]
    assert len(lines) == 4
    best = max(np.mean([figure(f"{loss}-{seed}", head) for seed in range(3)]) for loss in ("ce", "graloss") for head in ("joint", "crt"))
    assert f"{best:.2f} ± " in next(line for line in lines if re.search(r"\*  [+−]", line) or line.endswith("*"))
    assert len({line.index(" ± ") for line in lines}) == 1


def test_markdown_is_a_table_of_equal_rows(sweep, monkeypatch, capsys):
    output = run(monkeypatch, capsys, *sweep, "--format", "markdown")
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert len(table) == 6
    assert {line.count("|") for line in table} == {9}
    assert table[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    assert output.count("**") == 2 * 3  # many, medium and all have a best


def test_latex_is_balanced_and_escaped(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for loss in ("ce", "balanced_softmax"):
        make(tmp_path / loss, changes={"train.loss": loss})
    output = run(monkeypatch, capsys, "ce", "balanced_softmax", "--format", "latex")
    lines = [line for line in output.splitlines() if not line.startswith("%")]
    assert lines[0] == r"\begin{tabular}{llrrrrrl}" and lines[-1] == r"\end{tabular}"
    assert [line for line in lines if line in (r"\toprule", r"\midrule", r"\bottomrule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    cells = [line for line in lines if line.endswith(r" \\")]
    assert {line.count(" & ") for line in cells} == {7}
    assert r"balanced\_softmax" in output and r"\textbf{" in output
    assert not re.search(r"(?<!\\)_", "\n".join(cells)) and all(line.isascii() for line in cells)
    assert tables.plain("50 % of x_1 & {y}") == r"50 \% of x\_1 \& \{y\}"
    assert tables.plain("[1, 2]") == "{}[1, 2]"
    assert tables.plain("few < 20 | many > 50") == r"few $<$ 20 \textbar{} many $>$ 50"


def test_columns_heads_and_baseline_are_chosen(sweep, monkeypatch, capsys):
    rows = records(monkeypatch, capsys, *sweep, "--columns", "ece.all", "--heads", "crt", "--baseline", "train.loss=ce")
    assert [row["head"] for row in rows] == ["crt", "crt"]
    assert rows[0]["difference"] == ""
    gains = [figure(f"graloss-{seed}", "crt") - figure(f"ce-{seed}", "crt") for seed in range(3)]
    assert float(rows[1]["difference"]) == pytest.approx(np.mean(gains), abs=1e-4)
    assert float(rows[1]["low"]) <= float(rows[1]["difference"]) <= float(rows[1]["high"])
    lowest = min(rows, key=lambda row: float(row["ece.all_mean"]))
    output = run(monkeypatch, capsys, *sweep, "--columns", "ece.all", "--heads", "crt")
    assert f"{float(lowest['ece.all_mean']):.2f} ± {float(lowest['ece.all_std']):.2f}*" in output


def test_old_or_missing_predictions_cost_the_interval_and_a_line(sweep, monkeypatch, capsys):
    make(runs.Path("old"), 7, schema="old")
    output = run(monkeypatch, capsys, "old", "ce-0")
    assert "no interval for old: predictions are damaged or of an older form" in output
    (runs.Path("ce-1") / "data/predictions.h5").unlink()
    output = run(monkeypatch, capsys, "ce-1")
    assert "no interval for ce-1: there is no data/predictions.h5" in output and "[+" not in output.split("\n", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "no results to compare: `dvc repro` makes the first"),
        (["nothing"], "nothing: no such folder, experiment or commit"),
        (["bare"], "bare: its params.yaml has no seed.heads, so what made its results is unknown"),
        (["renamed"], "renamed: has no results of the heads in its params.yaml; run `dvc repro` there"),
        (["conflict"], "conflict/dvc.lock: not valid YAML, perhaps a merge conflict; resolve it"),
        (["torn"], "torn/data/results/heads/joint.json: not valid JSON"),
        (["killed"], "killed: has no data/results/provenance.json, which `evaluate` writes last; run `dvc repro evaluate` there"),
        (["ce-0", "--columns", ""], "--columns: names no figure"),
        (["."], "workspace: has no data/results/heads/*.json"),
        (["ce-0", "--columns", "al"], "--columns al: no result has it; known: many, medium, few, all, ece.all"),
        (["ce-0", "--heads", "crtt"], "--heads crtt: no run has such a head; known: joint, crt"),
        (["ce-0", "--baseline", "tau"], "--baseline tau: no run has such a head; known: joint, crt"),
        (["ce-0", "ce-1", "--baseline", "train.loss=x"], "--baseline train.loss=x: no run has it; values of train.loss: ce"),
        (["ce-0", "--baseline", "train.los=ce"], "--baseline train.los=ce: no run has it; differing: nothing"),
        (["ce-0", "--published"], "published.csv: not found"),
    ],
)
def test_an_error_is_one_line(sweep, monkeypatch, capsys, arguments, line):
    (make(runs.Path("bare")) / "params.yaml").write_text("data: {}\nheads: {joint: {kind: joint}}\n")
    (make(runs.Path("renamed")) / "params.yaml").write_text("heads: {other: {kind: joint}}\n")
    (make(runs.Path("conflict")) / "dvc.lock").write_text("<<<<<<< ours\nschema: '2.0'\n=======\n")
    (make(runs.Path("torn")) / "data/results/heads/joint.json").write_text('{"all": 9')
    (make(runs.Path("killed")) / "data/results/provenance.json").unlink()
    with pytest.raises(InputError, match=re.escape(line)) as error:
        run(monkeypatch, capsys, *arguments)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_what_published_does_not_have_is_refused(sweep, monkeypatch, capsys):
    for more in (["--columns", "all"], ["--baseline", "joint"]):
        with pytest.raises(SystemExit) as error:
            run(monkeypatch, capsys, "ce-0", "--published", *more)
        assert error.value.code == 2 and "leave --columns and --baseline out" in capsys.readouterr().err


def test_a_baseline_that_several_settings_have_asks_which(sweep, monkeypatch, capsys):
    make(runs.Path("steeper"), changes={"train.loss": "graloss", "losses.graloss.c": 4.0})
    with pytest.raises(InputError, match="several settings have it; say which, as in train.loss=graloss,losses.graloss.c=2.0"):
        run(monkeypatch, capsys, *sweep, "steeper", "--baseline", "train.loss=graloss")
    rows = records(monkeypatch, capsys, *sweep, "steeper", "--baseline", "train.loss=graloss,losses.graloss.c=2.0", "--heads", "crt")
    assert [(row["train.loss"], row["losses.graloss.c"], row["pairs"]) for row in rows] == [
        ("ce", "", "3"),
        ("graloss", "2.0", ""),
        ("graloss", "4.0", "1"),
    ]


def resampled(labels, ours, theirs, resamples, rng):
    """The bootstrap by hand: images drawn within each class, one by one."""
    gains = np.zeros(resamples)
    for b in range(resamples):
        per_class = []
        for k in np.unique(labels):
            drawn = rng.choice(np.flatnonzero(labels == k), (labels == k).sum())
            per_class.append(np.mean([(o[drawn] == k).mean() - (t[drawn] == k).mean() for o, t in zip(ours, theirs, strict=True)]))
        gains[b] = 100 * np.mean(per_class)
    return gains


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    rng = np.random.default_rng(0)
    ours, theirs = ([predict(rng, accuracy) for _ in range(3)] for accuracy in (0.75, 0.6))
    by_hand = np.quantile(resampled(LABELS, ours, theirs, 4000, rng), [0.025, 0.975])
    assert paired.interval([LABELS] * 3, ours, theirs, resamples=20_000) == pytest.approx(by_hand, abs=0.8)  # points; the width is 18
    assert paired.interval([LABELS] * 3, ours, theirs) == paired.interval([LABELS] * 3, ours, theirs)


def test_the_interval_of_one_class_is_scipys_paired_one():
    rng = np.random.default_rng(1)
    ours, theirs = rng.random((2, 200)) < [[0.8], [0.7]]
    mean = stats.bootstrap(
        (ours, theirs), lambda x, y, axis: x.mean(axis) - y.mean(axis), paired=True, method="percentile", n_resamples=20_000, rng=rng
    ).confidence_interval
    low, high = paired.interval([np.zeros(200, int)], [np.where(ours, 0, 1)], [np.where(theirs, 0, 1)], resamples=20_000)
    assert (low, high) == pytest.approx((100 * mean.low, 100 * mean.high), abs=0.51)  # one image is half a point


def test_the_draws_have_the_bootstraps_variance():
    """Var = mean over classes of Var(gain in the class) / m, divided by the number of classes."""
    rng = np.random.default_rng(2)
    gain = rng.integers(-3, 4, len(LABELS))
    draws = paired.draws(LABELS, gain, 3, 200_000, rng)
    variances = [gain[k == LABELS].var() / (k == LABELS).sum() for k in range(4)]
    assert draws.mean() == pytest.approx(np.mean([gain[k == LABELS].mean() for k in range(4)]), abs=0.01)
    assert draws.var() == pytest.approx(np.sum(variances) / 16, rel=0.02)


def test_pairs_with_other_labels_draw_for_themselves():
    """The spread of a mean over two independent test sets is that of one, divided by √2."""
    rng = np.random.default_rng(3)
    ours, theirs, other = predict(rng, 0.8), predict(rng, 0.6), LABELS[::-1].copy()
    shared = np.diff(paired.interval([LABELS] * 2, [ours] * 2, [theirs] * 2, resamples=20_000))
    apart = np.diff(paired.interval([LABELS, other], [ours, ours[::-1]], [theirs, theirs[::-1]], resamples=20_000))
    assert apart == pytest.approx(shared / np.sqrt(2), rel=0.05)


def test_an_identical_prediction_gains_nothing():
    assert paired.interval([LABELS], [LABELS], [LABELS]) == (0, 0)


def test_each_data_set_has_a_best_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for ratio in (50, 100):
        make(tmp_path / f"r{ratio}", changes={"data.ratio": ratio})
    said = run(monkeypatch, capsys, "r50", "r100", "--columns", "all")
    assert sum("*" in line for line in said.splitlines()[2:]) == 2
