"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32 x 32 pixels in 100 (fine) classes.

From the official binary layout (`cifar-100-binary/`) or torchvision's files in `data.root`; there is no official validation set.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.params import Params
from pipeline.raw import RawData, read_cifar

NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar
    cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
    house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
    orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose
    sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
""".split()


class Dataset(Params):
    """No parameters."""

    def read(self, root: Path, seed: int) -> RawData:
        """Load both splits; the coarse labels are not used."""
        return read_cifar(root, "cifar-100-binary", ["train.bin"], "test.bin", 2, "CIFAR100", NAMES)
