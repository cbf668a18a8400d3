"""CIFAR from its official binary files and from torchvision's: on small files of the same layout, and on the real ones where they are."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision

from pipeline import images, params, prepare
from pipeline.datasets import cifar10, cifar100
from pipeline.files import InputError
from pipeline.longtail import class_counts, cut
from tests.conftest import edit, process

REAL = os.environ.get("TAILCACHE_CIFAR")
needs_cifar = pytest.mark.skipif(
    not REAL, reason="TAILCACHE_CIFAR is not set: it names a folder with cifar-10-batches-bin/ and cifar-100-binary/"
)


def records(label_bytes, classes, each, seed=0):
    """A file's bytes and, apart, its labels and images (n, 32, 32, 3): every class `each` times."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    pixels = rng.integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    rows = [bytes(label_bytes - 1) + bytes([k]) + image.transpose(2, 0, 1).tobytes() for k, image in zip(labels, pixels, strict=True)]
    return b"".join(rows), labels, pixels


@pytest.fixture
def small(tmp_path):
    """Both data sets in the binary layout, with 4 training and 2 test images of each class in a file."""
    root, expected = tmp_path / "cifar", {}
    for folder, label_bytes, classes, files in (
        ("cifar-10-batches-bin", 1, 10, [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]),
        ("cifar-100-binary", 2, 100, ["train", "test"]),
    ):
        (root / folder).mkdir(parents=True)
        for seed, name in enumerate(files):
            content, labels, pixels = records(label_bytes, classes, 2 if "test" in name else 4, seed)
            (root / folder / f"{name}.bin").write_bytes(content)
            expected.setdefault((classes, "test" in name), []).append((labels, pixels))
    return root, expected


@pytest.mark.parametrize(("module", "classes"), [(cifar10, 10), (cifar100, 100)])
def test_the_binary_layout_is_read(small, module, classes):
    root, expected = small
    raw = module.Dataset().read(root, 0)
    for split, test in ((raw.train, False), (raw.test, True)):
        labels, pixels = (np.concatenate(column) for column in zip(*expected[classes, test], strict=True))
        assert np.array_equal(split.labels, labels)
        assert np.array_equal(split.read(np.arange(len(labels))), pixels)
    assert len(raw.names) == classes
    assert raw.val is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            r"train.bin: 1,229,599 bytes are not whole records of 3,074: truncated or foreign",
        ),
        (lambda path: path.write_bytes(b""), "train.bin: 0 bytes are not whole records"),
        (lambda path: path.write_bytes(b"\xff" * 3074), "train.bin: has a label 255, expected 0 to 99: another format"),
        (lambda path: path.unlink(), "train.bin: cannot be read"),
    ],
)
def test_a_damaged_file_is_one_line(small, workspace, damage, message):
    root, _ = small
    damage(root / "cifar-100-binary/train.bin")
    with pytest.raises(InputError, match=message):
        cifar100.Dataset().read(root, 0)


def test_torchvisions_files_are_read(workspace, monkeypatch):
    """A folder in torchvision's layout; only the MD5 sums, which are those of the real files, are not asked for."""
    _, labels, pixels = records(2, 100, 2)
    folder = workspace / "cifar-100-python"
    folder.mkdir()
    content = {"data": pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1), "fine_labels": labels.tolist()}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": cifar100.NAMES}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *arguments: True)
    raw = cifar100.Dataset().read(workspace, 0)
    assert np.array_equal(raw.train.labels, labels)
    assert np.array_equal(raw.test.read(np.arange(len(labels))), pixels)
    assert torchvision.datasets.CIFAR100(workspace).classes == raw.names


def test_a_failed_download_says_what_to_do(workspace, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    with pytest.raises(InputError, match=r"data/raw: holds neither cifar-10-batches-bin/ .* failed \(no network\); set data.root"):
        cifar10.Dataset().read(Path("data/raw"), 0)


def use_cifar(workspace, name, imbalance, ratio, val, root):
    for old, new in {
        "name: digits ": f"name: {name} ",
        "root: data/raw ": f"root: {root} ",
        "imbalance: exponential": f"imbalance: {imbalance}",
        "ratio: 50 ": f"ratio: {ratio} ",
        "val: reserve ": f"val: {val} ",
        "val_per_class: 10": "val_per_class: 20",
    }.items():
        edit(workspace / "params.yaml", old, new)


@needs_cifar
@pytest.mark.parametrize(
    ("name", "imbalance", "ratio", "val", "total", "in_val"),
    [
        ("cifar100", "exponential", 100, "unused", 10_847, 1_980),
        ("cifar10", "exponential", 100, "none", 12_406, 0),
        ("cifar10", "step", 10, "none", 27_500, 0),
        ("cifar100", "step", 100, "reserve", 24_200, 2_000),
    ],
)
def test_real_long_tails(workspace, name, imbalance, ratio, val, total, in_val):
    use_cifar(workspace, name, imbalance, ratio, val, REAL)
    prepare.main()
    data = images.load()
    assert len(data.train.labels) == total
    assert (0 if data.val is None else len(data.val.labels)) == in_val
    assert len(data.test.labels) == 10_000
    assert np.ptp(np.bincount(data.test.labels)) == 0
    raw = params.method("datasets", name, "").Dataset().read(Path(REAL), 0)
    pool = np.arange(50_000)
    if val != "reserve":  # the very images that the reference code chooses
        chosen, _ = cut(raw.train.labels, class_counts(imbalance, 50_000 // data.classes, ratio, data.classes), 0)
        assert np.array_equal(data.train.images[:], raw.train.read(pool[chosen]))


@needs_cifar
def test_the_papers_split_of_cifar_100_lt_has_35_35_30_classes(workspace):
    use_cifar(workspace, "cifar100", "exponential", 100, "unused", REAL)
    prepare.main()
    counts = images.load().class_counts
    assert ((counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum()) == (35, 35, 30)


@needs_cifar
@pytest.mark.slow
def test_all_stages_on_cifar_100_lt(workspace):
    """Two epochs of the 32-layer network, then every stage: the table has the papers' groups and every head beats chance."""
    use_cifar(workspace, "cifar100", "exponential", 100, "unused", REAL)
    for old, new in {
        "depth: 8": "depth: 32",
        "augment: shift": "augment: plain",
        "epochs: 60": "epochs: 2",
        "warmup_epochs: 5": "warmup_epochs: 1",
        "epochs: 40": "epochs: 4",
        "many: 50, few: 10": "many: 100, few: 20",
    }.items():
        edit(workspace / "params.yaml", old, new)
    heads = list(params.read()["heads"])
    for name in ("prepare", "train", "extract", *((f"heads.{kind}", kind) for kind in heads), "deviation", "evaluate"):
        done = process(*([name] if isinstance(name, str) else name))
    assert "many (35)" in done.stdout and "medium (35)" in done.stdout and "few (30)" in done.stdout
    accuracies = [float(line.split()[4].strip("*")) for line in done.stdout.splitlines()[3:]]
    assert len(accuracies) == len(heads)
    assert min(accuracies) > 2.0
