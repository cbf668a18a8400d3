"""The report: pictures of every size of class count, the same bytes each time, a page that needs nothing beside it."""

import csv
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from pipeline import deviation, evaluate, features, outcomes, page, provenance, report, results
from pipeline.classifier import Classifier
from pipeline.files import InputError, write_csv
from pipeline.pictures import heads, style, training
from pipeline.pictures.heads import by_tau
from tests.conftest import edit, process, stage
from tests.test_evaluate import fitted  # noqa: F401

NAMES = [picture.name for picture in report.PICTURES]


@pytest.fixture
def evaluated(fitted):  # noqa: F811
    """Results of random heads on four classes, with training curves and a β path."""
    path = fitted / "data/heads/afg.safetensors"
    afg = Classifier.load(path)
    replace(afg, record={"beta": np.linspace(0, 1, 12).reshape(3, 4).tolist()}).save(path)
    rng = np.random.default_rng(0)
    epochs = range(1, 4)
    write_csv(
        fitted / "data/training.csv",
        [{"epoch": e, "loss": 1 / e, "lr": 0.1, "alpha": None, "train_accuracy": 30 * e, "val_accuracy": 20 * e} for e in epochs],
    )
    write_csv(
        fitted / "data/training_classes.csv",
        [
            {"epoch": e, "class": k, "train_images": 9, "accuracy": 100 * rng.random(), "classification_ratio": 1, "gradient_norm": 1 / e}
            for e in epochs
            for k in range(4)
        ],
    )
    with h5py.File("data/features.h5", "a") as file:
        file["classifier/weight"], file["classifier/bias"] = rng.normal(size=(4, 5)).astype("f4"), np.zeros(4, "f4")
        file["classifier"].attrs.update({"normalise": False, "scale": 1.0})
    evaluate.main()
    deviation.main()
    return fitted


@pytest.fixture
def write(monkeypatch):
    """The report in this process, with two quick pictures and, of those asked for, more."""
    monkeypatch.setattr(sys, "argv", ["report"])

    def main(*more):
        chosen = [picture for picture in report.PICTURES if picture.name in ("accuracy", "beta", *more)]
        monkeypatch.setattr(report, "PICTURES", chosen)
        report.main()
        return Path("data/report/report.html").read_text()

    return main


def written():
    return {path.name: path.read_bytes() for path in Path("data/report").iterdir()}


def test_a_report_is_the_same_bytes_each_time_and_needs_nothing_beside_it(evaluated, write):
    text = write("tsne")
    first = written()
    write("tsne")
    assert written() == first
    assert set(first) == {"accuracy.png", "beta.png", "tsne.png", "report.html"}
    assert not re.search(r"(src|srcset|href)=\"(?!data:)", text)
    assert text.count("data:image/png;base64,") == 2 * 3  # for light and for dark pages
    for name in ("joint", "ncm", "not measured", "params.yaml", "data/features.h5", "top 5"):
        assert name in text


@pytest.mark.slow
def test_every_picture_is_the_same_bytes_in_another_process(evaluated, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report"])
    process("report")
    first = written()
    report.main()
    assert written() == first
    assert set(first) == {f"{name}.png" for name in NAMES} | {"report.html"}


def test_the_page_shows_the_figures_of_the_results_and_marks_the_best(evaluated, write):
    text = write()
    for name in ("joint", "crt"):
        figures = json.loads((evaluated / f"data/results/heads/{name}.json").read_text())
        row = re.search(rf'<th class="head">{name}</th>(.*?)</tr>', text, re.DOTALL)[1]
        shown = re.findall(r"<td[^>]*>([^<]*)</td>", row)
        assert shown[:4] == [f"{figures[key]:.2f}" for key in ("many", "medium", "few", "all")]
        assert shown[-4:] == [str(figures["parameters"]), "not measured", "val", ""]
    best = max(json.loads(path.read_text())["all"] for path in (evaluated / "data/results/heads").glob("*.json"))
    assert f'<td class="best">{best:.2f}</td>' in text


def test_a_duration_is_shown_only_for_the_bytes_that_it_made(evaluated):
    """A head that DVC took from its cache has another MD5 than the last one that was timed."""
    path = evaluated / "data/heads/tau.safetensors"
    stage("heads.tau", "tau")
    assert len([key for key in provenance.durations() if key[0] == "head@tau"]) == 1
    (made,) = [each for each in provenance.read(results.read()).artefacts if each.path == "data/heads/tau.safetensors"]
    assert made.seconds is not None
    Classifier.load(evaluated / "data/heads/crt.safetensors").save(path)
    (other,) = [each for each in provenance.read(results.read()).artefacts if each.path == "data/heads/tau.safetensors"]
    assert other.seconds is None


def test_parameters_and_files_that_dvc_lock_does_not_know_are_told(evaluated):
    md5 = "0" * 32
    (evaluated / "dvc.lock").write_text(
        "stages:\n  head@tau:\n    params:\n      params.yaml:\n        heads.tau: {kind: tau, tau: 0.5}\n        seed.heads: 0\n"
        f"    outs:\n    - path: data/heads/tau.safetensors\n      md5: '{md5}'\n"
    )
    found = provenance.read(results.read()).warnings
    assert found == [
        "params.yaml: heads.tau.tau was 0.5 when head@tau ran and is 0.7 now",
        "data/heads/tau.safetensors: not the file that dvc.lock names",
    ]


def test_without_dvc_lock_nobody_knows_the_parameters(evaluated):
    assert provenance.read(results.read()).warnings == ["no dvc.lock here, so nothing tells which parameters these results were made with"]
    (evaluated / "dvc.lock").write_text("<<<<<<< ours\nschema: '2.0'\n=======\n")
    assert provenance.read(results.read()).warnings[0].startswith("dvc.lock: not valid YAML, perhaps a merge conflict")
    (evaluated / "dvc.lock").write_text("schema: '2.0'\n")
    assert provenance.read(results.read()).warnings == []


def test_a_head_fitted_again_is_told(evaluated):
    Classifier.load(evaluated / "data/heads/crt.safetensors").save(evaluated / "data/heads/tau.safetensors")
    assert provenance.read(results.read()).warnings[0] == "head@tau: fitted again since its results were written"


def test_a_line_of_timings_that_a_killed_run_left_does_no_harm(evaluated):
    stage("heads.tau", "tau")
    with open(".cache/timings.jsonl", "a") as file:
        file.write('{"stage": "head@cr')
    assert [key[0] for key in provenance.durations()] == ["head@tau"]


def test_what_cannot_be_drawn_is_told_and_its_old_picture_goes(evaluated, write, capsys):
    write("deviation", "curve")
    assert (evaluated / "data/report/deviation.png").exists()
    (evaluated / "data/results/deviation.csv").unlink()
    (evaluated / "data/training.csv").unlink()
    text = write("deviation", "curve")
    assert "report: no picture deviation: the stage deviation has not run" in capsys.readouterr().out
    assert not (evaluated / "data/report/deviation.png").exists()
    assert not (evaluated / "data/report/curve.png").exists()
    assert "Not drawn: Feature deviation, as the stage deviation has not run." in text


def torn(path):
    path.write_text(path.read_text().rpartition(",")[0])


def shorter(path):
    with h5py.File(path, "a") as file:
        del file["heads/tau/rank"]
        file["heads/tau/rank"] = np.zeros(3, np.int32)


def renamed(data):
    shutil.move(data / "features.h5", data / "imported.h5")
    edit("params.yaml", "features: data/features.h5", "features: data/imported/c.h5")


def relabelled(path):
    with h5py.File(path, "a") as file:
        file["test/labels"][:] = file["test/labels"][()][::-1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: (data / "results/heads/tau.json").unlink(), "data/results/heads/tau.json: not found; run `dvc repro`"),
        (lambda data: (data / "results/heads/tau.json").write_text("{"), "data/results/heads/tau.json: not valid JSON"),
        (lambda data: (data / "results/classes.csv").unlink(), "data/results/classes.csv: not found; run `dvc repro evaluate`"),
        (lambda data: (data / "predictions.h5").unlink(), "data/predictions.h5: not found; run `dvc repro evaluate`"),
        (lambda data: (data / "predictions.h5").write_bytes(b"x"), "data/predictions.h5: not a complete file of predictions"),
        (lambda data: (data / "heads/tau.safetensors").unlink(), "data/heads/tau.safetensors: not found; run `dvc repro`"),
        (lambda data: (data / "results/heads/crt.json").write_text("{}"), "data/results/heads/crt.json: of an earlier version, or damaged"),
        (lambda data: (data / "results/provenance.json").unlink(), "data/results/provenance.json: not found; run `dvc repro`"),
        (lambda data: (data / "results/heads/crt.json").write_text("[]"), "data/results/heads/crt.json: expected a JSON object, got list"),
        (lambda data: (data / "results/classes.csv").write_text("head,cla"), "data/results/classes.csv: of an earlier version, or damaged"),
        (lambda data: torn(data / "results/classes.csv"), "data/results/classes.csv: of an earlier version, or damaged"),
        (lambda data: torn(data / "results/deviation.csv"), "data/results/deviation.csv: of an earlier version, or damaged"),
        (lambda data: torn(data / "training_classes.csv"), "data/training_classes.csv: of an earlier version, or damaged"),
        (lambda data: (data / "training.csv").write_text(""), "data/training.csv: of an earlier version, or damaged"),
        (lambda data: (data / "features.h5").unlink(), "data/features.h5: not found"),
        (lambda data: (data / "images.h5").write_bytes(b"x"), "data/images.h5: not a complete images file"),
        (lambda data: shorter(data / "predictions.h5"), "data/predictions.h5: not a complete file of predictions (arrays of different"),
        (
            lambda data: edit("params.yaml", "ratio: 50 ", "ratio: '50' "),
            "params.yaml: data.ratio: input should be a valid number",
        ),
        (lambda data: edit("params.yaml", "  epochs: 60", "  epochz: 60"), "params.yaml: train.epochs: missing"),
        (lambda data: edit("params.yaml", "many: 50,", "many: 20,"), "data/results: made with another section `evaluate` than that of"),
        (lambda data: renamed(data), "data/results: of data/features.h5, and params.yaml names data/imported/c.h5; run `dvc repro`"),
        (lambda data: relabelled(data / "features.h5"), "data/predictions.h5: of other test images than data/features.h5"),
    ],
)
def test_missing_results_are_a_line_and_write_nothing(evaluated, write, spoil, message):
    spoil(evaluated / "data")
    with pytest.raises(InputError) as refused:
        write()
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)
    assert not (evaluated / "data/report").exists()


def test_the_words_of_a_user_cannot_become_html(evaluated, write):
    edit("params.yaml", "groups: {}", "groups: {a-b: {classes: [1]}}")
    evaluate.main()
    (evaluated / "params.yaml").write_text((evaluated / "params.yaml").read_text() + "# <script>alert(1)</script>\n")
    text = write()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "a-b</th>" in text


def many_classes(classes, heads=8, seed=0, gaps=False):
    """Results as of so many classes, made up; with gaps some class has no training image, one no test image, and one a $ in its name."""
    rng = np.random.default_rng(seed)
    counts = rng.permutation(np.maximum((500 * 0.01 ** (np.arange(classes) / (classes - 1))).astype(int), 1))
    labels = np.repeat(np.arange(classes), 5)
    if gaps:
        counts[3], labels = 0, labels[labels != 4]
    names = ["joint", *(f"head_{place}" for place in range(heads - 1))]
    said = {}
    for name in names:
        rank = rng.integers(0, 3, len(labels)).astype(np.int32)
        predicted = np.where(rank == 0, labels, (labels + 1) % classes)
        said[name] = outcomes.Outcome(predicted, rng.random(len(labels), np.float32), rank)
    tested = np.isin(np.arange(classes), labels)
    accuracies = {name: np.where(tested, 100 * rng.random(classes), np.nan) for name in names}
    figures = {name: {"many": 80.0, "medium": 50.0, "few": None, "all": 61.5, "ece": {"all": 3.0}, "groups": {}} for name in names}
    measured = np.where(tested & (counts > 0), 1, np.nan)
    deviations = {key: measured * rng.random(classes) for key in ("deviation", "floor", "floor_low")} | {"floor_high": 0.9 * measured}
    by_class = {key: rng.random((4, classes)) for key in ("accuracy", "classification_ratio", "gradient_norm")}
    curve = {"epoch": np.arange(1, 5), "loss": np.ones(4), "train_accuracy": np.ones(4), "val_accuracy": np.full(4, np.nan)}
    x = rng.random((len(labels), 6), np.float32)
    split = features.Features(x, labels, classes, Classifier.linear(rng.normal(size=(classes, 6)), np.zeros(classes)))
    kept = np.flatnonzero(labels != 3) if gaps else slice(None)
    train = replace(split, features=x[kept], labels=labels[kept])
    return results.Results(
        tree={"evaluate": {"many": 100, "few": 20}, "heads": dict.fromkeys(names)},
        title="made up",
        counts=counts,
        names=[f"_a$x^${k}" for k in range(classes)],
        figures=figures,
        accuracies=accuracies,
        norms={name: rng.random(classes) for name in names},
        labels=labels,
        outcomes=said,
        heads={"afg": Classifier(record={"beta": rng.random((41, classes)).tolist()})},
        features={"train": train, "val": None, "test": split},
        training=results.Training(curve, np.arange(1, 5), by_class),
        deviations=deviations,
    )


@pytest.mark.parametrize(("classes", "gaps"), [(2, False), (10, False), (10, True), (1000, False)])
@pytest.mark.filterwarnings("error")
def test_every_picture_draws_any_number_of_classes(classes, gaps):
    found = many_classes(classes, 3, gaps=gaps)
    for picture in report.PICTURES:
        if picture.name == "confusion" and classes > 100:
            with pytest.raises(style.Missing):
                picture.draw(found)
            continue
        png = style.render(picture.draw, found, "light")
        assert png.startswith(b"\x89PNG")
        assert b"Software" not in png


@pytest.mark.parametrize("heads", [1, 20])
def test_every_picture_draws_any_number_of_heads(heads, tmp_path):
    found = many_classes(10, heads)
    about_heads = [picture for picture in report.PICTURES if picture.draw.__module__ == "pipeline.pictures.heads"]
    for picture in about_heads:
        if heads == 1 and picture.name == "change":
            continue
        (tmp_path / "p.png").write_bytes(style.render(picture.draw, found, "dark"))
        with Image.open(tmp_path / "p.png") as image:
            assert 300 < image.width < 2000
            assert image.convert("RGB").getpixel((1, 1)) == (0x15, 0x18, 0x1D)  # dark


def test_accuracy_by_tau_is_that_of_the_tau_head(evaluated):
    """Each class's accuracy at each τ, against a classifier of w / ||w||^τ, on training images, as there are no others."""
    found = results.read()
    accuracies, split = by_tau(found)
    assert split == "training"
    train = found.features["train"]
    norms = np.linalg.norm(train.classifier.weight.astype(float), axis=1)
    for place, tau in ((0, 0.0), (7, 0.7), (20, 2.0)):
        predicted = (train.features.astype(float) @ (train.classifier.weight / norms[:, None] ** tau).T).argmax(1)
        expected = [100 * (predicted[train.labels == k] == k).mean() for k in range(4)]
        np.testing.assert_allclose(accuracies[place], expected, atol=1e-9)


def test_classes_that_nobody_can_judge_do_not_hide_the_others():
    found = many_classes(10, gaps=True)
    accuracies, _ = by_tau(found)
    assert np.isnan(accuracies[:, [3, 4]]).all()
    assert np.isfinite(np.delete(accuracies, [3, 4], axis=1)).all()
    (axes,) = heads.tau(found).axes
    everything = next(line for line in axes.lines if line.get_label() == "all")
    np.testing.assert_allclose(everything.get_ydata(), np.nanmean(accuracies, axis=1))


def test_the_picture_by_tau_marks_the_one_that_the_head_takes(evaluated):
    """Of equal means over 30 images of each of three classes, whose sums round differently, the first."""
    hits = np.array([(1, 2, 7), (1, 7, 2), (2, 1, 7), (2, 7, 1)])
    found = results.read()
    everything = np.resize(100 * hits / 30, (21, 3))
    assert len({float(mean) for mean in everything.mean(1)}) > 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "by_tau", lambda _: (np.pad(everything, ((0, 0), (0, 1)), constant_values=np.nan), "training"))
        (axes,) = heads.tau(found).axes
    assert [text.get_text() for text in axes.texts] == ["τ = 0"]


def test_a_running_mean_leaves_out_what_is_not_known():
    values = np.array([1.0, np.nan, 3, 5, 7])
    np.testing.assert_allclose(style.running_mean(values, 1), [1, 2, 4, 5, 6])


def test_results_are_read_as_they_were_written(evaluated):
    found = results.read()
    with open("data/results/classes.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:8]:
        assert found.accuracies[row["head"]][int(row["class"])] == float(row["accuracy"])
        assert found.norms[row["head"]][int(row["class"])] == pytest.approx(float(row["weight_norm"]), rel=1e-5)
    assert found.training.by_class["accuracy"].shape == (3, 4)
    assert found.order.tolist() == [0, 1, 2, 3]


def test_a_column_s_text_is_what_its_value_is():
    column = page.Column("x", "x", "x")
    assert [page._text(value, column) for value in (None, 3.14159, 1234567, {"tau": 0.7})] == ["–", "3.14", "1,234,567", "tau 0.7"]


def test_pictures_show_what_they_say():
    """Classes from the largest to the smallest, a head less joint, right classes down and said ones across."""
    found = many_classes(10, 3)
    order = np.argsort(-found.counts, kind="stable")
    with style.theme("light"):
        heights = [bar.get_height() for bar in heads.change(found).axes[0].patches]
        confusion = heads.confusion(found).axes[0].images[0].get_array()
        beta = heads.beta(found).axes[0].images[0].get_array()
        largest, smallest = (line.get_ydata() for line in training.progress(found).axes[0].lines[:2])
    np.testing.assert_allclose(heights, (found.accuracies["head_0"] - found.accuracies["joint"])[order])
    table = confusion_matrix(found.labels, found.outcomes["joint"].predicted, labels=order, normalize="true")
    np.testing.assert_allclose(confusion, np.sqrt(100 * table))
    np.testing.assert_allclose(beta, np.array(found.heads["afg"].record["beta"])[:, order].T)
    np.testing.assert_allclose([largest, smallest], found.training.by_class["accuracy"][:, order[[0, -1]]].T)
