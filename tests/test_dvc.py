"""What DVC runs, and what it does not, in real workspaces with real `dvc` commands."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, edit

HEADS = ["joint", "logit_adjust", "crt", "lws", "tau", "ncm", "afg"]
SHORT = {"epochs: 60": "epochs: 2", "warmup_epochs: 5": "warmup_epochs: 1", "epochs: 40": "epochs: 1", "rounds: 1000": "rounds: 10"}


def run(workspace, *command, check=True):
    """Run a command in a workspace, with this test's Python first on the path, and give its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "120", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, env=environment)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def ran(output):
    """The stages that a `dvc` command ran."""
    return re.findall(r"Running stage '([^']+)'", output)


def commit(workspace):
    run(workspace, "git", "add", "-A")
    run(workspace, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "state", "--allow-empty")


def clone(workspace):
    """The project as git sees it, in a repository of its own, with training cut short; nothing has run."""
    files = run(ROOT, "git", "ls-files", "-co", "--exclude-standard").splitlines()
    for name in (
        name for name in files if name != "dvc.lock" and not name.startswith(("data/results", "data/imported")) and (ROOT / name).is_file()
    ):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, workspace / name)
    for old, new in SHORT.items():
        edit(workspace / "params.yaml", old, new)
    run(workspace, "git", "init", "-q")
    commit(workspace)
    return workspace


def without_heads(workspace, *names):
    """Take heads out of a workspace's params.yaml, to be quick."""
    file = workspace / "params.yaml"
    file.write_text(re.sub(rf"  ({'|'.join(names)}): \{{kind.*\n", "", file.read_text()))


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A clone in which `dvc repro` has run once."""
    workspace = clone(tmp_path_factory.mktemp("first"))
    output = run(workspace, "dvc", "repro")
    stages = ran(output)
    assert sorted(stages) == sorted(["prepare", "train", "extract", *(f"head@{name}" for name in HEADS), "deviation", "evaluate"])
    assert output.index("'extract'") < output.index("'head@crt'") < output.index("'evaluate'")
    commit(workspace)
    return workspace


@pytest.fixture
def project(reproduced, tmp_path):
    """A copy of it for one test."""
    shutil.copytree(reproduced, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


def artefacts(workspace):
    return {
        path.relative_to(workspace).as_posix(): path.read_bytes()
        for path in sorted((workspace / "data").rglob("*"))
        if path.is_file() and path.name != "README.md"
    }


def test_a_second_repro_runs_nothing_and_git_is_clean(project):
    assert ran(run(project, "dvc", "repro")) == []
    assert run(project, "git", "status", "--short") == ""


def test_a_heads_parameter_refits_that_head_and_evaluates(project):
    edit(project / "params.yaml", "tau: 0.7", "tau: 1.0")
    before = artefacts(project)
    output = run(project, "dvc", "repro")
    assert ran(output) == ["head@tau", "evaluate"]
    after = artefacts(project)
    changed = {name for name in after if after[name] != before[name]}
    assert "data/heads/tau.safetensors" in changed
    assert not any(name.startswith("data/heads/") and "tau" not in name for name in changed)
    assert "test accuracy in percent" in output


def test_editing_a_heads_file_refits_that_kind_only(project):
    with (project / "pipeline/heads/ncm.py").open("a") as file:
        file.write("# edited\n")
    stages = ran(run(project, "dvc", "repro"))
    assert "head@ncm" in stages
    assert set(stages) <= {"head@ncm", "evaluate"}


def test_editing_a_loss_leaves_runs_of_other_losses_alone(project):
    with (project / "pipeline/losses/graloss.py").open("a") as file:
        file.write("# edited\n")
    assert ran(run(project, "dvc", "repro")) == []


def test_going_back_to_an_earlier_loss_trains_nothing(project):
    edit(project / "params.yaml", "loss: ce ", "loss: graloss ")
    assert ran(run(project, "dvc", "repro", "train")) == ["train"]
    first = (project / "data/backbone.safetensors").read_bytes()
    edit(project / "params.yaml", "loss: graloss ", "loss: ce ")
    output = run(project, "dvc", "repro")
    assert ran(output) == []
    assert "Stage 'train' is cached - skipping run" in output
    assert (project / "data/backbone.safetensors").read_bytes() != first


@pytest.fixture
def fewer_heads(project):
    """The project without the heads that take longest, committed."""
    without_heads(project, "crt", "lws", "afg")
    commit(project)
    return project


def experiments(workspace):
    """What `dvc exp show` has of each experiment at HEAD: the loss, τ and the figures by head."""
    table = json.loads(run(workspace, "dvc", "exp", "show", "--json", "--no-pager"))
    (found,) = [row["experiments"] for row in table if row["rev"] != "workspace"]
    tried = [experiment["revs"][0]["data"] for experiment in found]
    parameters = [experiment["params"]["params.yaml"]["data"] for experiment in tried]
    metrics = [experiment["metrics"]["data/results/metrics.json"]["data"] for experiment in tried]
    return [(tree["train"]["loss"], tree["heads"]["tau"]["tau"], list(figures)) for tree, figures in zip(parameters, metrics, strict=True)]


@pytest.mark.slow
def test_an_experiment_runs_in_a_temporary_workspace(fewer_heads):
    output = run(fewer_heads, "dvc", "exp", "run", "--temp", "-n", "gradual", "-S", "train.loss=graloss")
    assert {"train", "extract", "head@joint"} <= set(ran(output))
    assert experiments(fewer_heads) == [("graloss", 0.7, ["joint", "logit_adjust", "tau", "ncm"])]
    assert run(fewer_heads, "git", "status", "--short") == ""


@pytest.mark.slow
def test_a_queued_sweep_runs_in_temporary_workspaces(fewer_heads):
    run(fewer_heads, "dvc", "exp", "run", "--queue", "-S", "heads.tau.tau=0.5,1.0")
    run(fewer_heads, "dvc", "exp", "run", "--run-all", "-j", "1")
    found = sorted(experiments(fewer_heads))
    assert found == [("ce", tau, ["joint", "logit_adjust", "tau", "ncm"]) for tau in (0.5, 1.0)]
    assert run(fewer_heads, "git", "status", "--short") == ""


def test_a_new_variant_is_one_entry(project):
    edit(project / "params.yaml", "  ncm: {", "  tau_one: {kind: tau, tau: 1.0}\n  ncm: {")
    assert ran(run(project, "dvc", "repro")) == ["head@tau_one", "evaluate"]
    assert "tau_one" in json.loads((project / "data/results/metrics.json").read_text())


@pytest.mark.slow
def test_two_fresh_clones_give_the_same_bytes(reproduced, tmp_path):
    second = clone(tmp_path)
    run(second, "dvc", "repro")
    first, second = artefacts(reproduced), artefacts(second)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert len(first) >= 20


def test_a_failing_head_leaves_the_last_good_results(project):
    edit(project / "params.yaml", "tau: 0.7", "tau: -0.7")
    before = artefacts(project)
    output = run(project, "dvc", "repro", check=False)
    assert "params.yaml: heads.tau.tau: input should be greater than or equal to 0, got -0.7" in output
    assert "Traceback" not in output
    own = before.pop("data/heads/tau.safetensors")  # DVC removes a stage's output before it runs it …
    assert artefacts(project) == before
    run(project, "dvc", "checkout", "head@tau")  # … and keeps it in its cache
    assert (project / "data/heads/tau.safetensors").read_bytes() == own


def test_a_failing_evaluate_leaves_the_last_good_results(project):
    edit(project / "params.yaml", "many: 50, few: 10,", "many: 50, few: 100,")
    before = artefacts(project)
    output = run(project, "dvc", "repro", check=False)
    assert "params.yaml: evaluate: few (100) should not exceed many (50) by more than 1" in output
    assert artefacts(project) == before


def test_an_unknown_loss_is_named_by_dvc(project):
    edit(project / "params.yaml", "loss: ce ", "loss: cee ")
    edit(project / "params.yaml", "  ce: {}", "  ce: {}\n  cee: {}")
    output = run(project, "dvc", "repro", check=False)
    assert "pipeline/losses/cee.py" in output
    assert ran(output) == []


def test_heads_run_in_parallel(project):
    for name in ("tau", "ncm"):
        (project / f"pipeline/heads/{name}.py").open("a").write("# edited\n")
    run(project, "bash", "-c", "printf 'head@%s\\n' tau ncm joint crt | xargs -P2 -n1 dvc repro -s")
    assert set(ran(run(project, "dvc", "repro"))) <= {"evaluate"}


@pytest.mark.slow
def test_results_travel_through_a_remote(project, tmp_path):
    """Also where a head came and went."""
    edit(project / "params.yaml", "  ncm: {", "  tau_one: {kind: tau, tau: 1.0}\n  ncm: {")
    run(project, "dvc", "repro")
    edit(project / "params.yaml", "  tau_one: {kind: tau, tau: 1.0}\n", "")
    run(project, "dvc", "repro")
    assert ran(run(project, "dvc", "repro")) == []
    run(project, "dvc", "remote", "add", "-d", "lab", str(tmp_path / "remote"))
    commit(project)
    run(project, "dvc", "push", "--run-cache")
    run(tmp_path, "git", "clone", "-q", str(project), "copy")
    run(tmp_path / "copy", "dvc", "pull", "--run-cache")
    assert ran(run(tmp_path / "copy", "dvc", "repro")) == []
    edit(tmp_path / "copy/params.yaml", "tau: 0.7", "tau: 1.0")
    assert ran(run(tmp_path / "copy", "dvc", "repro")) == ["head@tau", "evaluate"]


def test_plots_have_data(project):
    content = json.loads(run(project, "dvc", "plots", "show", "--json").splitlines()[-1])
    plots = content.get("data", content)
    training = {
        "Training",
        "Training loss",
        *(f"{what} by class size" for what in ("Training accuracy", "Classification ratio", "Gradient norm")),
    }
    assert set(plots) == training | {"Accuracy by head and split", "Accuracy over class rank", "Feature deviation"}
    bars = plots["Accuracy by head and split"][0]["content"]
    assert bars["encoding"]["x"]["scale"]["domain"] == [0, 100]  # bars begin at zero
    assert {row["split"] for row in bars["data"]["values"]} == {"all", "many", "medium", "few"}
    assert {row["head"] for row in bars["data"]["values"]} == set(HEADS)


@pytest.mark.slow
def test_a_repro_killed_while_it_trains_goes_on_where_it_was(project):
    """The whole process group dies, as with a machine; the next `dvc repro` resumes and ends as an undisturbed one."""
    edit(project / "params.yaml", "epochs: 2\n", "epochs: 30\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    repro = subprocess.Popen(
        ["dvc", "repro"], cwd=project, env={**os.environ, "PATH": path}, start_new_session=True, stdout=subprocess.DEVNULL
    )
    for _ in range(3000):  # five minutes, for a busy machine
        if list(project.glob("data/.checkpoints/*.safetensors")) or repro.poll() is not None:
            break
        time.sleep(0.1)
    assert repro.poll() is None
    os.killpg(repro.pid, signal.SIGKILL)
    repro.wait()
    assert not (project / "data/backbone.safetensors").exists()

    output = run(project, "dvc", "repro", "train")
    assert re.search(r"train: goes on after epoch \d+, from data/.checkpoints/", output)
    resumed = artefacts(project)
    assert not any(".checkpoints" in name for name in resumed)
    run(project, "dvc", "repro", "--force", "--single-item", "train")
    assert artefacts(project) == resumed
