"""A folder of images of any size and mode."""

import io
import os
import struct

import h5py
import numpy as np
import pytest
from PIL import Image

from pipeline import extract, images, prepare, train
from pipeline.datasets import folder
from pipeline.files import InputError
from tests.conftest import edit, stage

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (220, 30, 20)}


def picture(colour, size, rng):
    pixels = np.clip(np.array(colour) + rng.normal(0, 20, (size[1], size[0], 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def pictures(tmp_path):
    """Three classes with 12, 6 and 3 training and 4 validation and test images, in many sizes, modes and formats."""
    rng = np.random.default_rng(0)
    root = tmp_path / "pictures"
    for split, counts in (("train", (12, 6, 3)), ("val", (4, 4, 4)), ("test", (4, 4, 4))):
        for (name, colour), count in zip(COLOURS.items(), counts, strict=True):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = picture(colour, (30 + 11 * i, 70 - 5 * (i % 9)), rng)
                image = image.convert("P") if i % 5 == 1 else image.convert("RGBA") if i % 5 == 2 else image
                image.save(root / split / name / f"{i:02}.{'jpg' if image.mode == 'RGB' else 'png'}")
    (root / "train/red/.DS_Store").write_bytes(b"litter")
    (root / "train/red/Thumbs.db").write_bytes(b"litter")
    return root


@pytest.fixture
def project(workspace, pictures):
    """params.yaml set to those pictures at 32 pixels."""
    for old, new in {
        "name: digits ": "name: folder ",
        "root: data/raw ": f"root: {pictures} ",
        "imbalance: exponential": "imbalance: natural",
        "val: reserve ": "val: official ",
        "image_size: 224": "image_size: 28",
        "augment: shift": "augment: large",
    }.items():
        edit(workspace / "params.yaml", old, new)
    return workspace


def test_images_become_central_squares(project, pictures):
    prepare.main()
    data = images.load()
    assert data.names == ["blue", "green", "red"]
    assert data.class_counts.tolist() == [12, 6, 3]
    assert data.train.images.shape == (21, 32, 32, 3)  # 8/7 of 28
    assert (len(data.val.labels), len(data.test.labels), data.image_size) == (12, 12, 28)
    for split in (data.train, data.val, data.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert np.abs(image.mean((0, 1)) - list(COLOURS.values())[label]).max() < 25


def test_resizing_keeps_the_shorter_side_and_crops_the_longer(tmp_path):
    """A picture whose left and right thirds are marked loses just these."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, :30], pixels[:, 30:60], pixels[:, 60:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (square,) = images.decode(tmp_path, np.array(["wide.png"]), 30)
    assert np.array_equal(square, pixels[:, 30:60])


def test_grey_pictures_of_sixteen_bits_keep_their_tones(tmp_path):
    tones = np.linspace(0, 65535, 1600).astype(np.uint16).reshape(40, 40)
    Image.fromarray(tones).save(tmp_path / "deep.png")
    assert Image.open(tmp_path / "deep.png").mode.startswith("I")
    (square,) = images.decode(tmp_path, np.array(["deep.png"]), 40)
    assert np.array_equal(square, (tones // 257).astype(np.uint8)[..., None].repeat(3, 2))


def test_names_that_are_no_utf_8_are_found_again(project, pictures):
    edit(project / "params.yaml", "store: pixels", "store: paths")
    os.rename(os.fsencode(pictures / "train/blue/00.jpg"), os.fsencode(pictures / "train/blue") + b"/\xff\xe4.jpg")
    prepare.main()
    assert images.load().train.images[np.arange(21)].shape == (21, 32, 32, 3)


def test_pictures_are_turned_upright(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    (square,) = images.decode(tmp_path, np.array(["turned.png"]), 40)
    assert np.array_equal(square, np.rot90(pixels, -1))


def test_odd_tags_do_no_harm(tmp_path):
    """A picture that lies on its side, and a tag that Pillow reads and cannot write."""
    tags = [(0x0100, 1, 1, b"\7\0\0\0"), (0x0112, 3, 1, b"\6\0\0\0")]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHI4s", *tag) for tag in tags) + bytes(4)
    image = Image.fromarray(np.repeat(np.array([[255, 0]], np.uint8), 8, 1).repeat(16, 0))
    image.save(tmp_path / "odd.jpg", exif=exif)
    (turned,) = images.decode(tmp_path, np.array(["odd.jpg"]), 16)[..., 0]
    assert turned[:7].mean() > 250 and turned[9:].mean() < 5  # left is up now


def test_paths_are_stored_instead_of_pixels_and_decode_to_the_same(project):
    prepare.main()
    stored = images.load()
    edit(project / "params.yaml", "store: pixels", "store: paths")
    prepare.main()
    with h5py.File(images.FILE) as file:
        assert "images" not in file["train"]
        assert not any(str(project.parent).encode() in path for path in file["train/paths"][:])  # relative: the file can travel
    linked = images.load()
    rows = np.array([5, 0, 20])
    assert np.array_equal(linked.train.images[rows], stored.train.images[rows])
    assert np.array_equal(linked.test.images[2:7], stored.test.images[2:7])
    assert np.array_equal(linked.mean, stored.mean)
    assert linked.channels == 3


def test_with_paths_a_changed_picture_changes_the_file(project, pictures):
    edit(project / "params.yaml", "store: pixels", "store: paths")
    prepare.main()
    first = images.FILE.read_bytes()
    picture((0, 0, 0), (50, 50), np.random.default_rng(1)).save(pictures / "train/blue/00.jpg")
    prepare.main()
    assert images.FILE.read_bytes() != first


def test_stage_one_and_extract_decode_from_paths(project):
    """The same features as from stored pixels, to the last bit."""
    edit(project / "params.yaml", "epochs: 60", "epochs: 2")
    edit(project / "params.yaml", "warmup_epochs: 5", "warmup_epochs: 0")
    edit(project / "params.yaml", "batch: 32\n", "batch: 8\n")
    contents = []
    for old, new in (("store: pixels", "store: pixels"), ("store: pixels", "store: paths")):
        edit(project / "params.yaml", old, new)
        for main in (prepare.main, train.main, extract.main):
            main()
        contents.append(extract.FILE.read_bytes())
    assert contents[0] == contents[1]


def png_cut_short():
    buffer = io.BytesIO()
    picture((9, 9, 9), (60, 60), np.random.default_rng(0)).save(buffer, "png")
    return buffer.getvalue()[:-400]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "train/red/05.png").write_bytes(png_cut_short()), "train/red/05.png: not an image that can be read"),
        (lambda root: (root / "test/red/note.txt").write_text("hello"), "test/red/note.txt: not an image that can be read"),
        (lambda root: (root / "val/red/empty.jpg").write_bytes(b""), "val/red/empty.jpg: not an image that can be read"),
        (lambda root: (root / "test/cyan").mkdir(), "test/cyan: no such class in "),
        (lambda root: (root / "test").rename(root / "tests"), "test: no such folder; set data.root in params.yaml"),
        (lambda root: (root / "train").rename(root / "training"), "train: no such folder; set data.root in params.yaml"),
        (lambda root: (root / "test/red/gone.png").symlink_to("nowhere"), "test/red/gone.png: not an image that can be read"),
        (lambda root: Image.new("F", (40, 40)).save(root / "test/red/float.tiff"), "its pixels are floating-point numbers"),
        (lambda root: (root / "train/amber").mkdir(), "the training set has no image of class amber"),
        (lambda root: os.mkdir(os.fsencode(root / "train") + b"/\xff"), "the folder's name, which is the class's, is not UTF-8; rename it"),
        (lambda root: (root / "train/red/more").symlink_to(root / "train/blue"), "train/red/more: a link to a folder"),
    ],
)
def test_bad_folders_are_one_line_and_leave_nothing(project, pictures, damage, message):
    damage(pictures)
    done = stage("prepare", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert str(pictures) in done.stderr
    assert not (project / "data/images.h5").exists()
    assert not list((project / "data/.tmp").glob("*")) if (project / "data").exists() else True


def test_a_missing_validation_folder_is_an_error_only_when_it_is_asked_for(project, pictures):
    (pictures / "val").rename(pictures / "elsewhere")
    with pytest.raises(InputError, match="data.val: folder has no validation set of its own; use reserve, unused or none"):
        prepare.main()
    edit(project / "params.yaml", "val: official ", "val: none ")
    prepare.main()
    assert images.load().val is None


def test_a_class_may_be_a_link_and_hold_folders(pictures, tmp_path):
    (pictures / "train/red").rename(tmp_path / "elsewhere")
    (pictures / "train/red").symlink_to(tmp_path / "elsewhere")
    (pictures / "train/blue/2019").mkdir()
    for name in ("00.jpg", "03.jpg"):
        (pictures / "train/blue" / name).rename(pictures / "train/blue/2019" / name)
    raw = folder.Dataset(image_size=28).read(pictures, 0)
    assert np.bincount(raw.train.labels).tolist() == [12, 6, 3]


def test_litter_is_passed_over(pictures):
    for place in ("train/red/.ipynb_checkpoints", "train/__MACOSX", "train/.hidden"):
        (pictures / place).mkdir()
        picture((0, 0, 0), (40, 40), np.random.default_rng(0)).save(pictures / place / "copy.png")
    raw = folder.Dataset(image_size=28).read(pictures, 0)
    assert np.bincount(raw.train.labels).tolist() == [12, 6, 3]
