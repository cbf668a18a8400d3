"""Reproduce cells of the papers' tables, without DVC, so that it also runs on a bare machine with a GPU.

`run` makes all stages of each cell and seed in a folder of its own, `.cache/reproduction/CELL/seed-N`, and adds a row for each head to
data/reproduction/runs.csv. What is there already is not made again, and a training that was cut off goes on. `table` puts the rows beside
the published numbers; `--write README.md` puts that table between its two markers.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import cells, finished, image_level, ledger, recipe, reproduced, stored
from pipeline.cell import Place, Tree, of_training
from pipeline.files import InputError, in_a_line, interruptible, write_text
from pipeline.locks import alone

WORK = Path(".cache/reproduction")
MARKERS = ("<!-- reproduction -->\n", "<!-- end of reproduction -->\n")


@interruptible("reproduce: stopped; run it again, and it goes on")
def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m pipeline.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    some = argparse.ArgumentParser(add_help=False)
    example = "as in cifar100-lt-100/autoaugment/graloss, or …/ce+graloss, or …/ce+ce of two seeds: names of data/reproduction/cells.yaml"
    some.add_argument("cells", nargs="*", metavar="CELL", help=example)
    some.add_argument("--seed", type=int, nargs="+", default=[0], help="of stage one and the heads; the images are always the papers'")
    making = commands.add_parser("run", parents=[some], help="run cells")
    making.add_argument("--stored", action="store_true", help=f"also every cell and seed of {stored.FOLDER}")
    making.add_argument("--heads", nargs="+", metavar="HEAD", help="fit no other heads of cells.yaml, and leave the rows of others")
    making.add_argument("--root", default=os.environ.get("TAILCACHE_CIFAR"), help="folder of the data set; default: $TAILCACHE_CIFAR")
    making.add_argument("--train", action="store_true", help=f"train, also where {stored.FOLDER} has the backbone")
    making.add_argument("--compile", action="store_true", help="train with `train.compile: true`, whatever cells.yaml says")
    making.add_argument("--images", action="store_true", help="also cRT and LWS over images, as the reference code has them")
    making.add_argument("--full", action="store_true", help="also a linear classifier on the whole training set, as in GLAG's table 1")
    making.set_defaults(do=run)
    storing = commands.add_parser("store", parents=[some], help=f"put backbones of finished cells into {stored.FOLDER}")
    storing.set_defaults(do=store)
    showing = commands.add_parser("table", help="what was reproduced, beside the published numbers")
    showing.add_argument("--write", type=Path, metavar="FILE", help=f"between {MARKERS[0].strip()} and {MARKERS[1].strip()}")
    showing.set_defaults(do=table)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the stage under way ends too
    options.do(options)


def run(options: argparse.Namespace) -> None:
    """Make what is missing of each cell, then write its rows. Names and parameters are refused before anything runs."""
    if not options.root:
        raise InputError("reproduce: name the folder of the data set, with --root or in TAILCACHE_CIFAR")
    if not Path(options.root).is_dir():
        raise InputError(f"reproduce: {options.root}: no such folder; name that of the data set, or make it for torchvision's download")
    known, root = cells.read(), str(Path(options.root).resolve())
    wanted = asked_for(options, stored.every() if options.stored else [])
    if options.heads and options.images:
        raise InputError("reproduce: --images takes its parameters from crt and lws; leave --heads out")
    for head in options.heads or ():
        if head not in known.heads:
            raise InputError(f"{cells.FILE}: heads: no {head!r}; known: {', '.join(known.heads)}")
    trees = {network: cells.compose(*network, root, known) for cell, seed in wanted for network in cells.networks(cell, seed)}
    for (cell, _), tree in trees.items() if options.compile else ():
        tree["train"]["compile"] = True
        cells.checked(tree, cell)  # once more: a machine may lack what compiling needs
    for cell, seed in wanted:
        networks = cells.networks(cell, seed)
        for network in networks:
            if (len(networks) > 1 or options.images) and hasattr(recipe.read(trees[network]).loss, "cosine_scale"):
                raise InputError(f"reproduce: {network[0]} has a cosine classifier, which neither --images nor `+` can work with")
    ledger.read()
    for cell, seed in wanted:
        networks = cells.networks(cell, seed)
        for network in networks:
            make(*network, trees[network], cells.full(trees[network], network[0], known), options)
        if len(networks) > 1:
            with place(cell, seed) as where:
                sources = [folder(*network) for network in networks]
                tree = cells.compose(networks[0][0], seed, root, known) | {"heads": known.heads_of(cell)}
                where.put_together(tree, sources, options.heads)
                keep(cell, seed, where, sources, tree, options.heads)


def make(cell: str, seed: int, tree: Tree, full: Tree, options: argparse.Namespace) -> None:
    """Make what is missing of a cell of one network, and what options ask for on top, now or in an earlier run."""
    with place(cell, seed) as where:
        if options.train:
            where.give_up_stored()
        where.make(tree, None if options.train else stored.file(cell, seed), options.heads)
        keep(cell, seed, where, [where.path], tree, options.heads)
        kinds = image_level.KINDS if options.images else list(finished.over_images(where.path))
        for kind in kinds:
            if not finished.over_images(where.path).get(kind):
                where.call("image_level", kind)
        in_full = options.full or (where.path / finished.FULL).exists()
        if in_full:
            where.judge_in_full(full)
        if kinds or in_full:
            keep(cell, seed, where, [where.path], tree, options.heads)


def asked_for(options: argparse.Namespace, more: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The cells and seeds of a command line, and more."""
    wanted = [(cells.named(cell), seed) for seed in options.seed for cell in options.cells] + more
    if not wanted:
        raise InputError("reproduce: which cells? Name some, as in `python -m pipeline.reproduce run cifar100-lt-100/autoaugment/graloss`")
    return list(dict.fromkeys(wanted))


def folder(cell: str, seed: int) -> Path:
    """Where the stages of a cell and seed leave their files."""
    return WORK / cell / f"seed-{seed}"


@contextmanager
def place(cell: str, seed: int) -> Iterator[Place]:
    """The folder of a cell and seed, which no other run works in."""
    path = folder(cell, seed)
    with alone(path / ".lock", f"reproduce: {path}: another run is at work there; wait for it, or end it") as lock:
        yield Place(path, lock)


def keep(cell: str, seed: int, where: Place, networks: list[Path], tree: Tree, heads: list[str] | None) -> None:
    """Put the rows of a finished cell into runs.csv; of some `heads` alone, theirs and those of votes that they take part in."""
    new, others = finished.rows(cell, seed, where.path, networks), []
    if heads:
        votes = tree["evaluate"]["ensembles"]
        others = [*tree["heads"], *votes]
        asked = {*heads, *ledger.ON_DEMAND, *(name for name, voters in votes.items() if set(voters) & set(heads))}
        new = [row for row in new if row["head"] in asked]
    ledger.keep(cell, seed, new, others)
    print(f"reproduce: {cell}, seed {seed}: {len(new)} heads -> {ledger.FILE}")


def store(options: argparse.Namespace) -> None:
    """Store the backbones of cells that have been run."""
    known = cells.read()
    networks = itertools.chain.from_iterable(itertools.starmap(cells.networks, asked_for(options, [])))
    for network, tree in {network: cells.compose(*network, "", known) for network in networks}.items():
        with place(*network) as where:
            where.former(tree)
            print(f"reproduce: {stored.store(*network, where.path, of_training(tree))}")


def table(options: argparse.Namespace) -> None:
    """Print the tables, or write them between two markers of a file."""
    text = reproduced.every_table()
    if not options.write:
        print(text)
        return
    try:
        before, first, rest = options.write.read_text(encoding="utf-8").partition(MARKERS[0])
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{options.write}: cannot be read ({in_a_line(error)}); name a file with {MARKERS[0].strip()} in it") from None
    _, second, after = rest.partition(MARKERS[1])
    if not second:
        raise InputError(f"{options.write}: has no lines {MARKERS[0].strip()} and {MARKERS[1].strip()}")
    write_text(options.write, f"{before}{first}\n{text}\n\n{second}{after}", beside=True)


if __name__ == "__main__":
    main()
