"""Which stages of a cell run, and what is kept of them, with stages that only leave their files."""

import copy
import json
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import backbone, cell, checkpoint, extract, finished, image_level, images, params, provenance, stored
from pipeline.cell import HEADS, Place
from pipeline.files import InputError

HEADS_OF = {"crt": {"kind": "crt", "epochs": 1}, "tau": {"kind": "tau"}}
TREE = {
    "seed": {"train": 0},
    "data": {"name": "digits", "root": "here"},
    "train": {"loss": "ce", "mix": "none", "reweight": "none", "epochs": 4, "compile": False},
    "losses": {"ce": {}, "focal": {"gamma": 1.0}},
    "extract": {"views": 0},
    "features": "data/features.h5",
    "heads": HEADS_OF,
    "evaluate": {"many": 100},
}
ALL = ["prepare", "train", "extract", "heads.crt crt", "heads.tau tau", "evaluate"]
IN_FULL = Path(finished.FULL) / extract.FILE
MADE = {**cell.STAGES, "evaluate": finished.JUDGED, "concatenate": cell.TOGETHER, "image_level": image_level.FILE}


@pytest.fixture
def ran(workspace, monkeypatch):
    """The stages that were called, in order."""
    calls = []

    def call(command, cwd, env, pass_fds):
        stage, *arguments = [command[2].removeprefix("pipeline."), *command[3:]]
        target = cwd / (HEADS / f"{arguments[0]}.safetensors" if stage.startswith("heads.") else MADE[stage])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("{}")
        calls.append(" ".join([stage, *arguments]))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(cell.subprocess, "run", call)
    monkeypatch.setattr(provenance, "revision", lambda *_: "commit 1")
    return calls


@pytest.fixture
def place(ran):
    """A place where all stages have run."""
    found = Place(Path("cell"), 0)
    found.make(TREE)
    assert ran == ALL
    (found.path / image_level.FILE).write_text('{"crt": {"all": 50}}')
    (found.path / IN_FULL).parent.mkdir(parents=True)
    (found.path / IN_FULL).touch()
    ran.clear()
    return found


def with_(where, value):
    """TREE with another value at a dotted path."""
    tree = copy.deepcopy(TREE)
    node = tree
    *path, last = where.split(".")
    for key in path:
        node = node[key]
    node[last] = value
    return tree


@pytest.mark.parametrize(
    ("where", "value", "wanted"),
    [
        ("data.root", "there", []),
        ("losses.focal.gamma", 2.0, []),
        ("heads.crt.epochs", 2, ["heads.crt crt", "evaluate"]),
        ("heads.more", {"kind": "ncm"}, ["heads.ncm more", "evaluate"]),
        ("heads", {"tau": {"kind": "tau"}}, ["evaluate"]),
        ("evaluate.many", 50, ["evaluate"]),
        ("evaluate.ensembles", {"both": ["crt", "tau"]}, ["evaluate"]),
        ("extract.views", 8, ["extract", "heads.crt crt", "heads.tau tau", "evaluate"]),
    ],
)
def test_what_depends_on_a_change_is_made_again(place, ran, where, value, wanted):
    place.make(with_(where, value))
    assert ran == wanted
    stale = where in ("heads.crt.epochs", "evaluate.many", "heads")
    assert finished.over_images(place.path) == {"crt": None if stale else {"all": 50}}
    ran.clear()
    place.make(with_(where, value))
    assert ran == []


@pytest.mark.parametrize(
    ("lost", "wanted"),
    [
        (images.FILE, ["prepare"]),
        (backbone.FILE, ALL[1:]),
        (extract.FILE, ALL[2:]),
        (HEADS / "tau.safetensors", ["heads.tau tau", "evaluate"]),
        (finished.JUDGED, ["evaluate"]),
    ],
)
def test_what_is_lost_is_made_again_and_what_was_made_of_it(place, ran, lost, wanted):
    (place.path / lost).unlink()
    place.make(TREE)
    assert ran == wanted
    trained = lost == backbone.FILE
    assert finished.over_images(place.path) == {"crt": None if trained else {"all": 50}}
    assert (place.path / IN_FULL).exists() != trained


@pytest.mark.parametrize(("where", "value"), [("train.epochs", 5), ("seed.train", 1), ("data.name", "cifar10"), ("losses.ce", {"x": 1})])
def test_a_backbone_of_other_parameters_is_left_alone(place, ran, where, value):
    before = (place.path / params.FILE).read_text()
    with pytest.raises(InputError, match="cell/params.yaml: of an earlier cells.yaml; remove cell to train it anew"):
        place.make(with_(where, value))
    assert ran == [] and (place.path / params.FILE).read_text() == before


def test_networks_are_put_together_where_one_is_newer(place, ran):
    other, both = Place(Path("other"), 0), Place(Path("both"), 0)
    other.make(TREE)
    ran.clear()
    sources = [place.path, other.path]
    caches = [str((source / extract.FILE).resolve()) for source in sources]
    both.put_together(TREE, sources)
    assert ran == [f"concatenate --name networks {caches[0]} {caches[1]}", *ALL[3:]]
    ran.clear()
    both.put_together(TREE, sources)
    assert ran == []
    Path(caches[1]).write_text("newer")
    both.put_together(TREE, sources)
    assert len(ran) == 4


def test_a_revision_is_dirty_where_one_of_its_files_differs(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.revision() == ""
    for name in ("code", "rows"):
        Path(name).write_text("before")
    author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], check=True)
    clean = provenance.revision()
    assert len(clean) == 10
    Path("rows").write_text("after")
    assert (provenance.revision(), provenance.revision("code")) == (f"{clean}-dirty", clean)
    Path("code").write_text("after")
    assert provenance.revision("code") == f"{clean}-dirty"


def test_the_commit_of_a_training_is_that_of_the_code_that_trained(place, monkeypatch):
    assert finished.about(place.path)["revision"] == "commit 1"
    monkeypatch.setattr(provenance, "revision", lambda *_: "commit 2")
    place.make(TREE)
    assert finished.about(place.path)["revision"] == "commit 1"
    (place.path / backbone.FILE).unlink()
    (place.path / checkpoint.FOLDER).mkdir()
    (place.path / checkpoint.FOLDER / "a.safetensors").touch()  # it goes on from it with this code, or begins anew
    place.make(TREE)
    assert finished.about(place.path)["revision"] == "commit 2"
    (place.path / finished.ABOUT).unlink()
    assert finished.about(place.path) == {}


def test_a_stored_backbone_of_the_same_parameters_is_taken_instead_of_training(place, ran):
    finished.note(place.path, {"revision": "commit 1", "device": "a processor"})
    notes = place.path / ".cache/timings.jsonl"
    notes.parent.mkdir()
    notes.write_text(json.dumps({"stage": "train", "seconds": 7, "images": 100}))
    with h5py.File(place.path / images.FILE, "w") as file:
        file["train/labels"] = np.zeros(50)
    (place.path / backbone.FILE).write_text("weights")
    trained = stored.store("a-1/b/c", 0, place.path, cell.of_training(TREE))
    other = Place(Path("other"), 0)
    other.make(TREE, trained)
    assert ran == [stage for stage in ALL if stage != "train"]
    assert (other.path / backbone.FILE).read_text() == "weights"
    assert finished.about(other.path) == {"revision": "commit 1", "device": "a processor", "train_seconds": 14}
    ran.clear()
    other.give_up_stored()
    other.make(TREE)
    other.give_up_stored()  # now its own
    other.make(TREE)
    assert ran == ALL[1:]
    ran.clear()
    Place(Path("third"), 0).make(with_("train.epochs", 5), trained)
    Place(Path("fourth"), 0).make(TREE, stored.file("a-1/b/c", 1))
    assert ran == ALL * 2
    for missing in (backbone.FILE, images.FILE):
        (place.path / missing).unlink()
        with pytest.raises(InputError, match=f"cell/{missing}: not there yet; `python -m pipeline.reproduce run a-1/b/c`"):
            stored.store("a-1/b/c", 0, place.path, {})


def test_a_compiled_training_says_so_and_its_backbone_is_taken_like_any(place, ran):
    compiled = with_("train.compile", True)
    noted = Place(Path("compiled"), 0)
    noted.make(compiled)
    assert finished.about(noted.path)["device"] == f"{finished.about(place.path)['device']}, compiled"
    ran.clear()
    noted.make(TREE)
    assert ran == []
    trained = stored.store("a-1/b/c", 0, noted.path, cell.of_training(TREE))
    Place(Path("other"), 0).make(compiled, trained)
    assert ran == [stage for stage in ALL if stage != "train"]


def test_seconds_of_a_training_that_went_on_are_those_of_all_its_images(place):
    with h5py.File(place.path / images.FILE, "w") as file:
        file["train/labels"] = np.zeros(50)
    notes = place.path / ".cache/timings.jsonl"
    notes.parent.mkdir()
    lines = [
        {"stage": "extract", "seconds": 3, "images": 50},
        {"stage": "train", "seconds": 7, "images": 100},  # half of 4 epochs
        {"stage": "train", "seconds": 0, "images": 0},  # nothing was left to do
    ]
    notes.write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "head@cr')  # killed while it wrote
    assert finished.seconds(place.path) == {"extract": 3, "train": 14}
    notes.unlink()
    assert finished.seconds(place.path) == {}
    assert finished.together([14, 3.5]) == 17.5 and finished.together([14, None]) is None
