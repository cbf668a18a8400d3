"""`evaluate`, `deviation` and `check` as stages: figures, files, refusals."""

import csv
import hashlib
import json

import h5py
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import recall_score

from pipeline import check, evaluate, features, judging, outcomes, params
from pipeline.classifier import Classifier
from pipeline.files import InputError
from tests.conftest import edit, stage

FIGURES = [
    *("many", "medium", "few", "all", "micro", "top5", "worst", "harmonic", "geometric", "macro_f1", "ece", "forward", "backward"),
    *("groups", "parameters", "selected_on"),
]
HEADS = ("joint", "logit_adjust", "crt", "lws", "tau", "ncm", "afg")


@pytest.fixture
def fitted(workspace):
    """Random features of 4 classes and a random classifier for each default head."""
    rng = np.random.default_rng(0)
    (workspace / "data").mkdir()
    with h5py.File("data/features.h5", "w") as file:
        file.attrs.update({"schema": features.SCHEMA, "dim": 5, "classes": 4, "class_counts": np.array([60, 51, 10, 4])})
        for name, counts in (("train", (60, 51, 10, 4)), ("test", (20, 20, 20, 20))):
            file[f"{name}/labels"] = np.repeat(np.arange(4), counts)
            file[f"{name}/features"] = rng.random((sum(counts), 5), np.float32)
    for name in HEADS:
        Classifier.linear(rng.normal(size=(4, 5)), rng.normal(size=4) / 4, record={"selected_on": "val"}).save(
            workspace / f"data/heads/{name}.safetensors"
        )
    return workspace


def by_class():
    with open("data/results/classes.csv") as file:
        return list(csv.DictReader(file))


def test_results_are_what_scikit_learn_says(fitted):
    printed = stage("evaluate").stdout
    test = features.load(fitted / "data/features.h5", "test")["test"]
    metrics = json.loads((fitted / "data/results/metrics.json").read_text())
    assert tuple(metrics) == HEADS
    with h5py.File("data/predictions.h5") as file:
        assert np.array_equal(file["labels"], test.labels)
        for name in HEADS:
            predicted = Classifier.load(fitted / f"data/heads/{name}.safetensors").predict(test.features)
            assert np.array_equal(file[f"heads/{name}/predicted"], predicted)
            assert np.array_equal(file[f"heads/{name}/rank"][()] == 0, predicted == test.labels)
            recall = 100 * recall_score(test.labels, predicted, average=None)
            figures = json.loads((fitted / f"data/results/heads/{name}.json").read_text())
            assert list(figures) == FIGURES
            assert figures["many"] == pytest.approx(recall[:2].mean(), abs=0.005)
            assert figures["medium"] == pytest.approx(recall[2], abs=0.005)
            assert figures["few"] == pytest.approx(recall[3], abs=0.005)
            assert figures["all"] == metrics[name] == pytest.approx(recall.mean(), abs=0.005)
            assert figures["selected_on"] == "val"
            assert f"{figures['few']:.2f}" in next(line for line in printed.splitlines() if line.startswith(name))
    rows = [row for row in by_class() if row["head"] == "tau"]
    assert [int(row["rank"]) for row in rows] == [0, 1, 2, 3]
    assert [int(row["train_images"]) for row in rows] == [60, 51, 10, 4]


def test_groups_of_ones_own_are_columns_and_figures(fitted):
    own = "{odd: {classes: [1, 3]}, tens: {at_least: 10, at_most: 51}, both: {classes: [3], at_least: 5}}"
    edit("params.yaml", "groups: {}", f"groups: {own}")
    header = stage("evaluate").stdout.splitlines()[2]
    for name in ("odd (2)", "tens (2)", "both (0)"):
        assert name in header
    classes = {int(row["class"]): float(row["accuracy"]) for row in by_class() if row["head"] == "tau"}
    figures = json.loads((fitted / "data/results/heads/tau.json").read_text())
    expected = {"odd": (classes[1] + classes[3]) / 2, "tens": (classes[1] + classes[2]) / 2, "both": None}
    assert figures["groups"] == pytest.approx(expected)
    assert set(figures["ece"]) == {"all", "many", "medium", "few", "odd", "tens", "both"}
    assert "tau,odd," in (fitted / "data/results/accuracy.csv").read_text()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("{odd: {classes: [1, 4]}}", "evaluate.groups.odd.classes: data/features.h5 has no class 4; its classes are 0 to 3"),
        ("{few: {classes: [1]}}", "evaluate.groups.few: there is a group of that name; choose another"),
        ("{odd: [1, 3]}", "evaluate.groups.odd: input should be a valid dictionary"),
        ("{odd: {over: 3}}", "evaluate.groups.odd.over: unknown key"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(fitted, groups, message):
    edit("params.yaml", "groups: {}", f"groups: {groups}")
    refused(fitted, f"params.yaml: {message}")


def test_confidence_and_rank_are_those_of_the_scores(fitted):
    """Of layers and of class means; a class that is absent comes last."""
    means = np.random.default_rng(1).random((4, 5), np.float32)
    Classifier(means=means, absent=np.array([False, True, False, False])).save(fitted / "data/heads/ncm.safetensors")
    stage("evaluate")
    test = features.load(fitted / "data/features.h5", "test")["test"]
    labels, said = outcomes.read()
    assert np.array_equal(labels, test.labels)
    for name in ("crt", "ncm"):
        scores = Classifier.load(fitted / f"data/heads/{name}.safetensors").scores(test.features).astype(float)
        assert np.array_equal(said[name].predicted, scores.argmax(1))
        np.testing.assert_allclose(said[name].confidence, softmax(scores, axis=1).max(1), rtol=1e-5)
        order = np.argsort(-scores, axis=1, kind="stable")
        rank = (order == labels[:, None]).argmax(1)
        rank = np.where((name == "ncm") & (labels == 1), 4, rank)  # that class is never predicted
        assert np.array_equal(said[name].rank, rank)


def test_a_class_that_is_never_predicted_is_not_among_the_best_five(workspace):
    """Whatever its number, and in an ensemble too, unless one of its heads knows the class."""
    labels = np.arange(8)
    split = features.Features(np.ones((8, 3), np.float32), labels, 8)
    absent = np.array([False, False, False, True, True, True, True, True])
    few, every = (Classifier.linear(np.zeros((8, 3)), np.zeros(8), absent=mask) for mask in (absent, None))
    assert outcomes.of_head(few, split).rank.tolist() == [0, 1, 2, *[8] * 5]
    assert outcomes.of_vote([few, few], split).rank.tolist() == [0, 1, 2, *[8] * 5]
    assert outcomes.of_vote([few, every], split).rank.tolist() == list(range(8))


def test_what_results_are_of_stands_beside_them(fitted):
    stage("evaluate")
    known = json.loads((fitted / "data/results/provenance.json").read_text())
    assert known["features"] == "data/features.h5"
    assert known["evaluate"]["many"] == 50
    md5 = hashlib.md5((fitted / "data/heads/tau.safetensors").read_bytes()).hexdigest()
    assert (list(known["classifiers"]), known["classifiers"]["tau"]) == (list(HEADS), md5)


def test_weight_norms_and_parameters_are_those_of_the_file(fitted):
    edit("params.yaml", "ensembles: {}", "ensembles: {two: [ncm, crt]}")
    Classifier(means=np.full((4, 5), 2, np.float32)).save(fitted / "data/heads/ncm.safetensors")
    stage("evaluate")
    rows = by_class()
    crt = Classifier.load(fitted / "data/heads/crt.safetensors")
    norms = [float(row["weight_norm"]) for row in rows if row["head"] == "crt"]
    np.testing.assert_allclose(norms, np.linalg.norm(crt.weight, axis=1), rtol=1e-5)
    assert {row["weight_norm"] for row in rows if row["head"] == "ncm"} == {f"{np.sqrt(20):.6g}"}
    assert {row["weight_norm"] for row in rows if row["head"] == "two"} == {""}
    results = {name: json.loads((fitted / f"data/results/heads/{name}.json").read_text()) for name in ("ncm", "crt", "two")}
    assert {name: figures["parameters"] for name, figures in results.items()} == {"ncm": 20, "crt": 24, "two": 44}


def test_an_empty_group_is_null_and_a_dash(fitted):
    edit(fitted / "params.yaml", "evaluate: {many: 50, few: 10,", "evaluate: {many: 1000, few: 2,")
    printed = stage("evaluate").stdout
    figures = json.loads((fitted / "data/results/heads/joint.json").read_text())
    assert figures["many"] is None
    assert figures["few"] is None
    assert "–" in printed
    assert "many" not in (fitted / "data/results/accuracy.csv").read_text()


def test_twice_gives_the_same_bytes(fitted):
    contents = []
    for _ in range(2):
        stage("evaluate")
        stage("deviation")
        contents.append({path.relative_to(fitted): path.read_bytes() for path in (fitted / "data").rglob("*") if path.is_file()})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 12


def test_the_results_of_a_removed_head_go(fitted):
    stage("evaluate")
    edit(fitted / "params.yaml", "  tau: {kind: tau, tau: 0.7}\n", "")
    stage("evaluate")
    assert not (fitted / "data/results/heads/tau.json").exists() and not (fitted / "data/heads/tau.safetensors").exists()
    assert "tau" not in json.loads((fitted / "data/results/metrics.json").read_text())


def test_the_classifier_of_a_removed_head_goes_also_where_an_ensemble_takes_its_name(fitted):
    edit(fitted / "params.yaml", "  tau: {kind: tau, tau: 0.7}\n", "")
    edit(fitted / "params.yaml", "ensembles: {}", "ensembles: {tau: [ncm, crt]}")
    stage("evaluate")
    assert (fitted / "data/results/heads/tau.json").exists() and not (fitted / "data/heads/tau.safetensors").exists()


def test_an_ensemble_is_the_mean_of_probabilities(fitted):
    means = np.random.default_rng(1).random((4, 5), np.float32)
    record = {"selected_on": "train", "chosen": {"tau": 0.5}}
    Classifier(means=means, absent=np.array([False, True, False, False]), record=record).save(fitted / "data/heads/ncm.safetensors")
    edit("params.yaml", "ensembles: {}", "ensembles: {two: [ncm, crt], three: [crt, lws, tau]}")
    assert stage("evaluate").stdout.splitlines()[-2].startswith("two ")
    test = features.load(fitted / "data/features.h5", "test")["test"]

    def probabilities(name):
        scores = Classifier.load(fitted / f"data/heads/{name}.safetensors").scores(test.features).astype(float)
        exponentials = np.exp(scores)  # of minus infinity, 0
        return exponentials / exponentials.sum(1, keepdims=True)

    with h5py.File("data/predictions.h5") as file:
        assert np.array_equal(file["heads/two/predicted"], ((probabilities("ncm") + probabilities("crt")) / 2).argmax(1))
        assert np.array_equal(file["heads/three/predicted"], sum(map(probabilities, ("crt", "lws", "tau"))).argmax(1))
    results = {name: json.loads((fitted / f"data/results/heads/{name}.json").read_text()) for name in ("two", "three", "ncm")}
    assert (results["two"]["selected_on"], results["three"]["selected_on"]) == ("train + val", "val")
    assert results["ncm"]["chosen"] == {"tau": 0.5}
    assert "chosen" not in results["two"]
    assert json.loads((fitted / "data/results/metrics.json").read_text())["two"] == results["two"]["all"]


@pytest.mark.parametrize(
    ("ensembles", "message"),
    [
        ("{two: [ncm, crtt]}", "evaluate.ensembles.two: no head 'crtt'; known: joint, logit_adjust, crt"),
        ("{two: [ncm]}", "evaluate.ensembles.two: expected two or more different heads, got ncm"),
        ("{two: []}", "evaluate.ensembles.two: expected two or more different heads, got none"),
        ("{two: [ncm, ncm]}", "evaluate.ensembles.two: expected two or more different heads, got ncm, ncm"),
        ("{ncm: [ncm, crt]}", "evaluate.ensembles.ncm: there is a head of that name; choose another"),
        ("{t/u: [ncm, crt]}", "evaluate.ensembles.t/u: an ensemble's name has letters"),
        ("[ncm, crt]", "evaluate.ensembles: input should be a valid dictionary"),
    ],
)
def test_an_ensemble_that_makes_no_sense_is_refused(workspace, ensembles, message):
    edit("params.yaml", "ensembles: {}", f"ensembles: {ensembles}")
    with pytest.raises(InputError, match="^params.yaml: ") as caught:
        check.check(params.read())
    assert str(caught.value).startswith(f"params.yaml: {message}")


def test_a_head_that_wants_other_features_gets_them(fitted):
    """A classifier made for features before the last ReLU is scored on those of the test set."""
    before = np.random.default_rng(5).normal(size=(80, 5)).astype(np.float32)
    with h5py.File("data/features.h5", "a") as file:
        file["test/pre_relu"] = before
    classifier = Classifier.linear(np.random.default_rng(6).normal(size=(4, 5)), np.zeros(4), tap="pre_relu")
    classifier.save(fitted / "data/heads/ncm.safetensors")
    stage("evaluate")
    with h5py.File("data/predictions.h5") as file:
        assert np.array_equal(file["heads/ncm/predicted"], classifier.predict(before))
    with h5py.File("data/features.h5", "a") as file:
        del file["test/pre_relu"]
    refused(fitted, "data/features.h5: has no pre_relu features; set `extract.pre_relu: true`")


def refused(workspace, message, name="evaluate"):
    """The stage fails with one line and leaves every file as it was."""
    before = {path: path.read_bytes() for path in (workspace / "data").rglob("*") if path.is_file()}
    done = stage(name, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in (workspace / "data").rglob("*") if path.is_file()} == before


def test_a_missing_head_is_told_how_to_get(fitted):
    stage("evaluate")
    (fitted / "data/heads/lws.safetensors").unlink()
    refused(fitted, "data/heads/lws.safetensors: not found; run `dvc repro`, or `dvc pull` first")


def test_a_truncated_head_is_refused(fitted):
    stage("evaluate")
    path = fitted / "data/heads/lws.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(fitted, "data/heads/lws.safetensors: not a complete classifier")


def test_a_head_of_another_width_is_refused(fitted):
    stage("evaluate")
    Classifier.linear(np.ones((4, 6)), np.ones(4)).save(fitted / "data/heads/lws.safetensors")
    message = "data/heads/lws.safetensors: made for 6 features and 4 classes, data/features.h5 has 5 and 4; run `dvc repro head@lws`"
    refused(fitted, message)


@pytest.mark.parametrize("name", ["evaluate", "deviation"])
def test_unsound_features_are_refused(fitted, name):
    with h5py.File("data/features.h5", "a") as file:
        file["test/features"][3, 2] = np.nan
    refused(fitted, "data/features.h5: test/features: NaN or infinite values, the first in row 3", name)


def test_class_counts_that_disagree_with_the_labels_are_refused(fitted):
    """They decide which classes are few-shot."""
    with h5py.File("data/features.h5", "a") as file:
        file.attrs["class_counts"] = np.array([60, 51, 4, 10])
    refused(fitted, "data/features.h5: class_counts: missing, or not the numbers of train/labels")


def test_thresholds_out_of_order_are_refused(fitted):
    edit(fitted / "params.yaml", "many: 50, few: 10,", "many: 5, few: 10,")
    refused(fitted, "params.yaml: evaluate: few (10) should not exceed many (5) by more than 1")


def test_check_accepts_the_projects_parameters(workspace):
    done = stage("check")
    assert done.stdout.startswith("params.yaml: all good. Data digits; stage one ce")
    assert done.stderr == ""


def test_a_command_without_arguments_says_so(workspace):
    (workspace / "params.yaml").unlink()  # so that anything that ran would fail
    for name in ("check", "evaluate"):
        assert f"usage: python -m pipeline.{name} [-h]" in stage(name, "--help").stdout
        done = stage(name, "other.yaml", check=False)
        assert done.returncode == 2 and "unrecognized arguments: other.yaml" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ratio: 50 ", "ratio: 0.5 ", "data.ratio: input should be greater than or equal to 1, got 0.5"),
        ("name: digits ", "name: digitz ", f"data.name: no 'digitz' in pipeline/datasets/; known: {', '.join(params.known('datasets'))}"),
        ("test_per_class: 50", "test_per_class: 0", "datasets.digits.test_per_class: input should be greater than or equal to 1, got 0"),
        ("kind: tau,", "kind: tao,", "heads.tau.kind: no 'tao' in pipeline/heads/; known: afg, cosine, crt, joint"),
        ("{kind: tau, tau: 0.7}", "{tau: 0.7}", "heads.tau.kind: missing"),
        ("  tau: {", "  t/u: {", "heads.t/u: a head's name has letters, digits, _ and -"),
        ("graloss: {c: 2.0,", "graloss: {c: 0.5,", "losses.graloss: c = 0.5 and s = 1 give a falling α"),
        ("start: 0.8", "start: 80", "reweighting.deferred.start: input should be less than 1, got 80"),
        ("after: 2, alpha: 2.0", "after: 2, alpha: 0", "mixing.mfw.alpha: input should be greater than 0, got 0"),
        ("  ce: {}", "  cee: {}", "losses.ce: missing"),
        ("extract:\n  batch: 64", "extract:\n  batch: 0", "extract.batch: input should be greater than or equal to 1, got 0"),
        ("features: data/features.h5", "features: 3", "features: expected the path of a features file, got 3"),
        ("deviation: {rounds: 1000,", "deviation: {rounds: 0,", "deviation.rounds: input should be greater than or equal to 1, got 0"),
        ("kind: tau, tau: 0.7", "kind: cosine, tap: pre_relu", "heads.tau.tap: pre_relu wants extract.pre_relu: true"),
        ("  tau: {", "  true: {", "heads.True: a head's name has letters, digits, _ and -"),
        ("{family: cifar_resnet, ", "{", "train.backbone.family: missing"),
        ("subset: 0", "subset: x", "seed.subset: input should be a valid integer, got 'x'"),
        ("seed: {subset: 0, train: 0, heads: 0}", "seed: 3", "seed: expected a mapping, got 3"),
        ("seed: {", "seed: {sead: 1, ", "seed.sead: unknown key; known here: subset, train, heads"),
        ("extract:\n", "extra: 1\nextract:\n", "extra: unknown section; known: seed, data, train"),
    ],
)
def test_check_names_the_yaml_path(workspace, old, new, message):
    edit("params.yaml", old, new)
    with pytest.raises(InputError, match="^params.yaml: ") as caught:
        check.check(params.read())
    assert str(caught.value).startswith(f"params.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_what_voters_were_selected_on_is_named_once():
    records = [{"selected_on": "val + train"}, {"selected_on": "val"}, {}]
    voters = [Classifier.linear(np.eye(2), np.zeros(2), record=record) for record in records]
    assert judging.selection(voters) == {"selected_on": "val + train"}
    assert judging.selection(voters[2:]) == {"selected_on": "nothing"}


def test_ranks_and_votes_where_classes_are_in_no_order(fitted):
    counts = np.array([10, 60, 51, 4])
    with h5py.File("data/features.h5", "a") as file:
        del file["train"]
        file.attrs["class_counts"] = counts
        file["train/labels"] = np.repeat(np.arange(4), counts)
        file["train/features"] = np.zeros((counts.sum(), 5), np.float32)
    edit("params.yaml", "ensembles: {}", "ensembles: {two: [ncm, crt]}")
    evaluate.main()
    assert [int(row["rank"]) for row in by_class() if row["head"] == "tau"] == [2, 0, 1, 3]
    test = features.load("data/features.h5", "test")["test"]
    scores = (Classifier.load(fitted / f"data/heads/{name}.safetensors").scores(test.features) for name in ("ncm", "crt"))
    mean = sum(softmax(score.astype(float), axis=1) for score in scores) / 2
    said = outcomes.read()[1]["two"]
    np.testing.assert_allclose(said.confidence, mean.max(1), rtol=1e-5)
    assert np.array_equal(said.rank, (np.argsort(-mean, axis=1, kind="stable") == test.labels[:, None]).argmax(1))


def test_an_evaluate_killed_on_the_way_leaves_no_provenance(fitted, monkeypatch):
    evaluate.main()
    monkeypatch.setattr(evaluate, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.main()
    assert not evaluate.PROVENANCE.exists()
