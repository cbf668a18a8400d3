"""Check all of params.yaml before a long job: `python -m pipeline.check`. Reads nothing else, imports no torch, takes a second.

Every stage checks its own sections when it starts; this checks those of all stages at once, and the methods not chosen as well.
"""

from __future__ import annotations

import inspect
from typing import Any

from pipeline import deviation, evaluate, extract, methods, params, prepare, recipe
from pipeline.files import InputError, takes_no_arguments

SEEDS = ("subset", "train", "heads")
SECTIONS = ("seed", "data", "train", "extract", "features", "heads", "deviation", "evaluate", *methods.SECTIONS)


def main() -> None:
    tree = params.read()
    check(tree)
    chosen, file = tree["train"], params.features_file(tree)
    if file == extract.FILE:
        methods_chosen = f"stage one {chosen['loss']}, mix {chosen['mix']}, re-weighting {chosen['reweight']}"
        before_heads = f"Data {tree['data']['name']}; {methods_chosen}, {chosen['epochs']} epochs"
    else:
        before_heads = f"Features {file}{'' if file.exists() else ', which is not there yet'}"
    print(f"params.yaml: all good. {before_heads}; heads {', '.join(tree['heads'])}.")


def check(tree: dict[str, Any]) -> None:
    """Check every section.

    Raises
    ------
    InputError
        For the first thing wrong, in the order of the stages.
    """
    for key in tree:
        if key not in SECTIONS:
            raise InputError(f"params.yaml: {key}: unknown section; known: {', '.join(SECTIONS)}")
    for name in SEEDS:
        params.seed(tree, name)
    for key in tree["seed"]:
        if key not in SEEDS:
            raise InputError(f"params.yaml: seed.{key}: unknown key; known here: {', '.join(SEEDS)}")
    prepare.read_params(tree)
    recipe.read(tree)
    for section, of in methods.SECTIONS.items():
        for name in params.at(tree, section):
            params.of_method(tree, section, name, f"{section}.{name}", of.model)
    extract.read_params(tree)
    params.features_file(tree)
    check_heads(tree)
    params.section(tree, "deviation", deviation.Deviation)
    evaluate.read_params(tree)


def check_heads(tree: dict[str, Any]) -> None:
    """Check the `heads` section: names, kinds that exist, each kind's own parameters, features that `extract` will make."""
    lacks = params.features_file(tree) == extract.FILE and not extract.read_params(tree).pre_relu
    for name in params.head_names(tree):
        kind = params.at(tree, f"heads.{name}.kind")
        module = params.method("heads", kind, f"heads.{name}.kind")
        if "main(Head)" not in inspect.getsource(module):  # the stage would end well and leave no file
            raise InputError(f'pipeline/heads/{kind}.py: should end in `if __name__ == "__main__":` and `main(Head)`')
        head = params.section(tree, f"heads.{name}", params.model_of(module, "Head"), without=("kind",))
        if lacks and getattr(head, "tap", "features") == "pre_relu":
            raise InputError(f"params.yaml: heads.{name}.tap: pre_relu wants extract.pre_relu: true")


if __name__ == "__main__":
    takes_no_arguments(__doc__)
    main()
