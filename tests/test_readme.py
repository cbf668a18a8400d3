"""The README's own blocks, as a reader would use them."""

import json
import re
import shutil

import pytest
from ruamel.yaml import YAML

from pipeline import check, params
from tests.conftest import ROOT, edit
from tests.test_cifar import small  # noqa: F401 - a fixture
from tests.test_dvc import clone, ran, run, without_heads
from tests.test_folder import pictures  # noqa: F401 - a fixture

README = (ROOT / "README.md").read_text()


def block(marker):
    """The fenced block that follows a marker."""
    return re.search(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```", README, re.DOTALL)[1]


def with_sections(marker, **sections):
    """params.yaml with the block's sections in the place of its own, and these keys changed in them.

    The block for CIFAR-10 is a line for the one for CIFAR-100, as the README says.
    """
    tree = params.read(ROOT / "params.yaml")
    for name in ["cifar100", "cifar10"] if marker == "cifar10" else [marker]:
        tree |= YAML(typ="safe").load(block(name))
    for section, changes in sections.items():
        tree[section] = tree[section] | changes
    return tree


@pytest.mark.parametrize("marker", ["cifar100", "cifar10", "folder"])
def test_blocks_pass_the_check(workspace, marker):
    check.check(with_sections(marker))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone with the heads joint and tau, reproduced once."""
    workspace = clone(tmp_path_factory.mktemp("readme"))
    without_heads(workspace, "crt", "lws", "ncm", "afg")
    run(workspace, "dvc", "repro")
    return workspace


def test_the_variant_is_one_line(project, tmp_path):
    shutil.copytree(project, tmp_path / "p", symlinks=True)
    entry = block("variant")
    assert entry.count("\n") == 1
    edit(tmp_path / "p/params.yaml", "  tau: {kind", f"{entry}  tau: {{kind")
    assert ran(run(tmp_path / "p", "dvc", "repro")) == ["head@tau_one", "evaluate"]


def test_the_head_of_your_own_is_one_file_of_at_most_40_lines_and_one_entry(project, tmp_path):
    shutil.copytree(project, tmp_path / "p", symlinks=True)
    code = block("own head")
    assert len(code.splitlines()) <= 40
    (tmp_path / "p/pipeline/heads/ridge.py").write_text(code)
    entry = block("own head's entry")
    edit(tmp_path / "p/params.yaml", "  tau: {kind", f"{entry}  tau: {{kind")
    run(tmp_path / "p", "git", "add", "-A")
    assert ran(run(tmp_path / "p", "dvc", "repro")) == ["head@ridge", "evaluate"]
    assert json.loads((tmp_path / "p/data/results/metrics.json").read_text())["ridge"] > 20
    edit(tmp_path / "p/params.yaml", "strength: 0.1", "strength: -1")
    assert "params.yaml: heads.ridge.strength: input should be greater than 0, got -1" in run(tmp_path / "p", "dvc", "repro", check=False)


def test_features_of_your_own_need_no_image(project, tmp_path):
    workspace = tmp_path / "p"
    shutil.copytree(project, workspace, symlinks=True)
    run(workspace, "python", "-c", block("features of your own"))
    run(workspace, "bash", "-c", block("import"))
    edit(workspace / "params.yaml", "features: data/features.h5", "features: data/imported/clip.h5")
    stages = ran(run(workspace, "bash", "-c", block("imported")))
    assert sorted(stages) == ["deviation", "evaluate", "head@joint", "head@logit_adjust", "head@tau"]
    results = json.loads((workspace / "data/results/metrics.json").read_text())
    assert results["logit_adjust"] > results["joint"] > 50
    status = run(workspace, "git", "status", "--short", "--untracked-files=all")
    assert "data/imported/clip.h5.dvc\n" in status
    assert "clip.h5\n" not in status


@pytest.mark.slow
def test_two_backbones_go_side_by_side(project, tmp_path):
    workspace = tmp_path / "p"
    shutil.copytree(project, workspace, symlinks=True)
    alone = [json.loads((workspace / "data/results/metrics.json").read_text())["logit_adjust"]]
    said = run(workspace, "bash", "-ec", block("side by side"))
    assert "stage-one classifier the mean of theirs -> data/imported/both.h5" in said
    alone.append(json.loads((workspace / "data/results/metrics.json").read_text())["logit_adjust"])
    edit(workspace / "params.yaml", "features: data/features.h5", "features: data/imported/both.h5")
    stages = ran(run(workspace, "bash", "-c", block("imported").replace("clip", "both")))
    assert sorted(stages) == ["deviation", "evaluate", "head@joint", "head@logit_adjust", "head@tau"]
    assert json.loads((workspace / "data/results/metrics.json").read_text())["logit_adjust"] > min(alone)


SHORT = {"epochs": 1, "warmup_epochs": 0}


@pytest.mark.slow
@pytest.mark.parametrize("marker", ["cifar100", "cifar10"])
def test_cifar_blocks_run(tmp_path, small, marker):  # noqa: F811
    """On small files of the real layout, so ratio and validation set are small; one epoch, a small network and two heads, to be quick."""
    root, _ = small
    data = {"root": str(root), "ratio": 2, "val_per_class": 1}
    tree = with_sections(marker, data=data, train=SHORT | {"backbone": {"family": "cifar_resnet", "depth": 8, "width": 4}})
    tree["heads"] = {name: tree["heads"][name] for name in ("joint", "tau")}
    reproduce(tmp_path / "p", tree)


@pytest.mark.slow
def test_the_folder_block_runs(tmp_path, pictures):  # noqa: F811
    tree = with_sections("folder", data={"root": str(pictures)}, train=SHORT)
    tree["datasets"]["folder"]["image_size"] = 32
    tree["heads"] = {name: tree["heads"][name] for name in ("joint", "tau")}
    reproduce(tmp_path / "p", tree)


def reproduce(workspace, tree):
    workspace.mkdir()
    clone(workspace)
    with (workspace / "params.yaml").open("w") as file:
        YAML().dump(tree, file)
    assert "test accuracy in percent" in run(workspace, "dvc", "repro")
    assert set(json.loads((workspace / "data/results/metrics.json").read_text())) == {"joint", "tau"}


def test_the_start_is_two_commands():
    for marker, end in (("main", "pip install . && dvc repro"), ("test", "pip install '.[test]' && pytest")):
        command = block(marker).strip()
        assert command == f"python3 -m venv .venv && . .venv/bin/activate && {end}"


def test_the_table_of_experiments_fits_120_columns():
    table = re.search(r"\$ dvc exp show[^\n]*\n(.*?)```", README, re.DOTALL)[1]
    assert max(map(len, table.splitlines())) <= 120
    assert "…" not in table
    assert all(f" {name} " in table for name in params.read(ROOT / "params.yaml")["heads"])
