"""What README says in words of what was reproduced: its numbers are those of runs.csv and published.csv."""

import numpy as np
import pytest
from scipy.stats import beta

from pipeline.longtail import class_counts
from tests.conftest import ROOT
from tests.runs_and_papers import (
    ADJUST,
    CE,
    GRALOSS,
    LONG_CE,
    LONG_GRALOSS,
    MFW,
    RETRAINED,
    TITLES,
    WIDE,
    below,
    best_of,
    beyond,
    changes,
    each,
    ends,
    heads,
    mfw_has,
    ours,
    over_images,
    paper,
    printed,
    views_add,
)

README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
AFG = changes(GRALOSS, "afg")
ONE = {name: value for name, value in AFG.items() if name not in ("new_layer", "searched")}
STEPS = [ours(CE, f"{head}-steps_2000") - ours(CE, head) for head in RETRAINED]
COMPARED = [*((cell, kind) for cell in (CE, GRALOSS, ADJUST) for kind in TITLES), (GRALOSS, "afg")]  # at ratios other than 100
LWS_200 = [below(cell, kind, 200) for cell, kind in COMPARED if kind == "lws"]
AT_TEN = [below(cell, kind, 10) for cell, kind in COMPARED if cell != ADJUST]
LDAM = [ours("plain/ldam_drw", data=data) for data in ("cifar100-lt", "cifar10-lt")]
SIXTY = ("plain_60/mfw", "plain_60/ce")
AD, LINEAR = "GraLoss, AD, KD", "a linear classifier for all of CIFAR-100"
CLAIMS = {
    # in short
    "that of GraLoss {:.1f} points lower and that of cross-entropy {:.1f} (in 591 epochs {:.1f}, one network)": [
        paper("GraLoss", 7) - ours(GRALOSS),
        *(paper("CE", 7) - ours(cell) for cell in (CE, LONG_CE)),
    ],
    "cached views end {:.1f} to {:.1f} below its table 6, AFG behind GraLoss {:.1f} below its table 7;": [
        *ends([below(cell, kind) for cell in (CE, GRALOSS, ADJUST) for kind in TITLES]),
        below(GRALOSS, "afg"),
    ],
    "none of these heads differs by more than {:.1f}. MFW, with plain augmentation, is {:.1f} below its paper (on CIFAR-10-LT {:.1f}, one "
    "network), LDAM-DRW in the same recipe within {:.1f} of its own on both;": [
        max(abs(below(cell, kind, 50)) for cell, kind in COMPARED),
        mfw_has("MFW") - ours("plain/mfw"),
        mfw_has("MFW", "cifar10") - ours("plain/mfw", data="cifar10-lt"),
        max(abs(LDAM[0] - mfw_has("LDAM-DRW")), abs(LDAM[1] - mfw_has("LDAM-DRW", "cifar10"))),
    ],
    "on CIFAR-10's step data, after 60 epochs, MFW is {:.1f} above cross-entropy (one network each; table 1, after 200: {:.1f}).": [
        ours("plain_60/mfw", data="cifar10-step") - ours("plain_60/ce", data="cifar10-step"),
        mfw_has("MFW", "cifar10", "step") - mfw_has("ERM", "cifar10", "step"),
    ],
    "two networks side by side have {:.1f} %; one published network has {:.1f} in as many epochs as each of the two "
    "(GML, a student that has a teacher), {:.1f} in as many as both.": [
        ours("autoaugment/ce+graloss", "la_val"),
        *(best_of(epochs) for epochs in (200, 400)),
    ],
    "One network four times as wide has {:.1f}, where the best published one of that width has {:.1f}.": [
        *(ours(WIDE, "la_val"), best_of(200, 64)),
    ],
    # what comes out
    "**Four times the channels are worth {:.1f} points.**": [ours(WIDE, "la_val") - ours(GRALOSS, "la_val")],
    "(`autoaugment_wide`, three networks) ends at {:.1f}, and at {:.1f} with logits shifted by a τ chosen on validation images, where the "
    "usual one of 0.47 million has {:.1f} and {:.1f}.": [ours(cell, head) for cell in (WIDE, GRALOSS) for head in ("joint", "la_val")],
    "({:.1f} in 400 epochs, ProCo) and above weight balancing ({:.2f}, a ResNet-34": [
        *(best_of(400), paper("WD + WD & MaxNorm", 2, name="weight_balancing")),
    ],
    "and {:.1f} below the best of its own width (GLMC with SCoRe's loss, {:.2f}; GLMC with max-norm {:.2f})": [
        *(best_of(200, 64) - ours(WIDE, "la_val"), best_of(200, 64), paper("GLMC + MaxNorm", "README", name="glmc")),
    ],
    "a linear classifier for all of CIFAR-100 has {:.1f} on them (seed 0), {:.1f} on the usual ones.": [
        *(ours(WIDE, "full"), ours(GRALOSS, "full")),
    ],
    "finds nothing more in them: {:.1f}, with {:.1f} on few-shot classes, with views {:.1f} and {:.1f}.": [
        ours(WIDE, head, column) for head in ("crt", "crt_views") for column in ("all", "few")
    ],
    "validation images, where LWS with views has {:.1f} by default, stage one's own classifier {:.1f} and the shifted one {:.1f}.": [
        each(WIDE, head, "val")[0] for head in ("lws_views", "joint", "la_val")
    ],
    "on the same images, end at {:.2f}, {:.2f} and {:.2f}, and so do their heads: cRT with views has {:.1f}, {:.1f} and {:.1f}.": [
        *each(GRALOSS),
        *each(GRALOSS, "crt_views"),
    ],
    "Three of cross-entropy end at {:.1f} to {:.1f}, but a head on them differs by up to {:.1f}.": [
        *ends(each(CE)),
        max(np.ptp(each(CE, head)) for head in heads(CE)),
    ],
    "GraLoss has {:.1f} to {:.1f} over cross-entropy behind one head, AFG {:.1f} to {:.1f} over GraLoss with": [
        *ends([*(paper(f"{t}, GraLoss", 6) - paper(f"{t}, CE", 6) for t in TITLES.values()), paper(AD, 7) - paper("CE, AD, KD", 7)]),
        *ends([paper(AD, 7) - theirs for theirs in (paper("cRT, GraLoss", 6), paper("LWS, GraLoss", 6), paper("GraLoss", 7))]),
    ],
    "logit adjustment has {:.1f} (table 7: {:.1f}), GraLoss {:.1f} ({:.1f}) and cross-entropy {:.1f} ({:.1f}; in table 1 {:.1f}), "
    "{:.1f} on few-shot classes ({:.1f}; {:.1f}).": [
        *(ours(ADJUST), paper("Logitloss", 7), ours(GRALOSS), paper("GraLoss", 7)),
        *(ours(CE), paper("CE", 7), paper("Cross-Entropy", 1, head="joint")),
        *(ours(CE, "joint", "few"), paper("CE", 7, "few"), paper("Cross-Entropy", 1, "few", head="joint")),
    ],
    "cross-entropy has {:.1f} and {:.1f}, GraLoss {:.1f};": [ours(LONG_CE), ours(LONG_CE, "joint", "few"), ours(LONG_GRALOSS)],
    LINEAR + " has {:.1f} on them, in 591 epochs {:.1f} ({:.2f}).": [
        *(ours(CE, "full"), ours(LONG_CE, "full"), paper("Cross-Entropy", 1, head="full")),
    ],
    "are {:.1f} to {:.1f} below table 6, AFG is {:.1f} below table 7 behind GraLoss, {:.1f} behind cross-entropy and {:.1f} behind logit": [
        *ends([below(cell, kind) for cell in (CE, GRALOSS, ADJUST) for kind in TITLES]),
        *(below(cell, "afg") for cell in (GRALOSS, CE, ADJUST)),
    ],
    "none of the seven that have a counterpart differs by more than {:.1f};": [max(abs(below(cell, kind, 50)) for cell, kind in COMPARED)],
    "at ratio 10 (one network of cross-entropy and one of GraLoss) all five are {:.1f} below to {:.1f} above;": [max(AT_TEN), -min(AT_TEN)],
    "at ratio 200 cRT and AFG are {:.1f} to {:.1f} below, LWS {:.1f} above to {:.1f} below.": [
        *ends([below(cell, kind, 200) for cell, kind in COMPARED if kind != "lws"]),
        *(-min(LWS_200), max(LWS_200)),
    ],
    "In 591 epochs cross-entropy's cRT and LWS are {:.1f} and {:.1f} below, GraLoss's {:.1f} and {:.1f}.": [
        below(cell, kind) for cell in (LONG_CE, LONG_GRALOSS) for kind in TITLES
    ],
    "Views are worth up to {:.1f} points at ratio 100, {:.1f} at 50, and {:.1f} in 591 epochs (networks of the usual width).": [
        *(views_add(CE, GRALOSS, ADJUST), views_add(CE, GRALOSS, ratio=50), views_add(LONG_CE, LONG_GRALOSS)),
    ],
    "twelve changes of one number of AFG end between {:.1f} and {:.1f} (the last table above), a new layer in place of LWS at {:.1f}.": [
        *ends(ONE.values()),
        AFG["new_layer"],
    ],
    "cRT and LWS on cross-entropy's networks end {:.1f} lower to {:.1f} higher.": [-min(STEPS), max(STEPS)],
    "It is worth {:.1f} points ({:.1f} there), and moves accuracy from few- to many-shot classes: "
    "by {:.1f} and {:+.1f} ({:.1f} and {:+.1f}).": [
        *(ours(GRALOSS, "afg") - ours(GRALOSS, "afg_ad"), paper(AD, 7) - paper("GraLoss, AD", 7)),
        *(ours(GRALOSS, "afg", split) - ours(GRALOSS, "afg_ad", split) for split in ("few", "many")),
        *(paper(AD, 7, split) - paper("GraLoss, AD", 7, split) for split in ("few", "many")),
    ],
    "Without it AFG has {:.1f} ({:.1f}), with other numbers at most {:.1f},": [
        *(ours(GRALOSS, "afg_ad"), paper("GraLoss, AD", 7), max(changes(GRALOSS, "afg_ad").values())),
    ],
    LINEAR + " has {:.1f} less than on cross-entropy's, LDA {:.1f} less, NCM {:.1f} and cRT with views {:.1f} more": [
        *(ours(CE, head) - ours(GRALOSS, head) for head in ("full", "lda")),
        *(ours(GRALOSS, head) - ours(CE, head) for head in ("ncm", "crt_views")),
    ],
    "LWS and AFG with views, which start from stage one's classifier, have {:.1f} and {:.1f} more (GLAG: {:.1f} and {:.1f}), "
    "AFG without views {:.1f}.": [
        *(ours(GRALOSS, head) - ours(CE, head) for head in ("lws_views", "afg_views")),
        *(paper("LWS, GraLoss", 6) - paper("LWS, CE", 6), paper(AD, 7) - paper("CE, AD, KD", 7)),
        ours(GRALOSS, "afg") - ours(CE, "afg"),
    ],
    "chosen on validation images, both losses have {:.1f}.": [ours(CE, "la_val")],
    "both losses have {:.1f}.": [ours(GRALOSS, "la_val")],
    "features are {:.1f} better than cross-entropy's here, in every seed, and {:.1f} worse in GLAG.": [
        ours(ADJUST, "full") - ours(CE, "full"),
        paper("Cross-Entropy", 1, head="full") - paper("Logit Adjust τ 1.0", 1, head="full"),
    ],
    "is worth {:.0f} to {:.0f} points on few-shot classes**": ends(beyond(CE, *RETRAINED, column="few")),
    "lift them from {:.1f} to {:.1f} and {:.1f}, with views to {:.1f} and {:.1f}, and cost {:.0f} to {:.0f} points on many-shot ones.": [
        *(ours(CE, head, "few") for head in ("joint", *RETRAINED)),
        *ends([-lost for lost in beyond(CE, *RETRAINED, column="many")]),
    ],
    "they lift them by {:.0f} and {:.0f}, with views by {:.0f} and {:.0f}; with plain augmentation by {:.0f} to {:.0f}, views or not.": [
        *beyond(LONG_CE, *RETRAINED, column="few"),
        *ends(beyond("plain/ce", *RETRAINED, column="few")),
    ],
    "{:+.0f} to {:+.0f} behind GraLoss, {:+.0f} to {:+.0f} behind logit adjustment.": [
        *ends(beyond(GRALOSS, *RETRAINED, column="few")),
        *ends(beyond(ADJUST, *RETRAINED, column="few")),
    ],
    "one of cross-entropy and one of GraLoss have {:.1f}, {:.1f} and {:.1f} (seeds 0 to 2), where each alone has {:.1f} on average;": [
        *each("autoaugment/ce+graloss", "la_val"),
        ours(CE, "la_val"),
    ],
    "two of cross-entropy have {:.1f}, two of GraLoss {:.1f} (one pair each). "
    "One of each of three losses have {:.2f}, {:.2f} and {:.2f}; MFW's beside them, which alone has {:.1f}, brings them to {:.1f}, {:.1f} "
    "and {:.1f}.": [
        *(ours(f"autoaugment/{pair}", "la_val") for pair in ("ce+ce", "graloss+graloss")),
        *each("autoaugment/ce+graloss+logit_adjust", "la_val"),
        *(ours(MFW, "la_val"), *each("autoaugment/ce+graloss+logit_adjust+mfw", "la_val")),
    ],
    "side by side have {:.1f}, {:.1f} and {:.1f}, alone {:.1f} and {:.1f} on average.": [
        *each("plain/ce+logit_adjust", "la_val"),
        *(ours(f"plain/{loss}", "la_val") for loss in ("ce", "logit_adjust")),
    ],
    # what the papers leave out
    "Cross-entropy is {:.1f} in table 1 and {:.1f} in table 7, logit adjustment {:.1f} and {:.1f}.": [
        *(paper("Cross-Entropy", 1, head="joint"), paper("CE", 7), paper("Logit Adjust τ 1.0", 1, head="joint"), paper("Logitloss", 7)),
    ],
    "two of its numbers in table 7, {:.1f} for cross-entropy and {:.1f} for logit adjustment,": [paper("CE", 7), paper("Logitloss", 7)],
    'GLAG\'s "Balanced Softmax" of table 2, {:.1f} at ratio 100,': [paper("Balanced Softmax", 2)],
    "its cross-entropy, {:.1f}, looks like a plain one (ours: {:.1f})": [paper("Cross-Entropy", 2), ours("plain/ce")],
    "On cross-entropy it gives {:.1f} for nothing, more than every trained head on these features, and nearly as much as training with "
    "logit adjustment, {:.1f}. With plain augmentation it gives {:.1f}, as much as the best trained head, and training with it {:.1f} "
    "({:.2f} in GLAG's": [
        *(ours(CE, "logit_adjust"), ours(ADJUST), ours("plain/ce", "logit_adjust"), ours("plain/logit_adjust")),
        paper("Logit Adjust", 2),
    ],
    "three full runs (`plain/mfw`) end at {:.1f}, {:.1f} below table 1, with {:.1f} on few-shot classes.": [
        *(ours("plain/mfw"), mfw_has("MFW") - ours("plain/mfw"), ours("plain/mfw", "joint", "few")),
    ],
    "ends at {:.1f}, {:.1f} below, with {:.1f} on few-shot classes and features no worse: "
    + LINEAR
    + " has {:.1f} on them, {:.1f} on the first's, {:.1f} on cross-entropy's (seed 0).": [
        *(ours("plain/mfw_arithmetic"), mfw_has("MFW") - ours("plain/mfw_arithmetic")),
        ours("plain/mfw_arithmetic", "joint", "few"),
        *(ours(f"plain/{method}", "full") for method in ("mfw_arithmetic", "mfw", "ce")),
    ],
    "**MFW's ERM on CIFAR-100-LT is {:.1f} points above ours": [mfw_has("ERM") - ours("plain/ce")],
    "With a citation of Cui et al. (2019) it has {:.1f}; ours has {:.1f},": [mfw_has("ERM"), ours("plain/ce")],
    "Beyond our own ERM it gains {:.1f} (arithmetic: {:.1f}, seed 0), where the paper's gains {:.1f}.": [
        ours("plain/mfw") - ours("plain/ce"),
        (each("plain/mfw_arithmetic") - each("plain/ce"))[0],
        mfw_has("MFW") - mfw_has("ERM"),
    ],
    "ERM ends at {:.1f} and MFW at {:.1f} (`plain_cosine`": [ours("plain_cosine/ce"), ours("plain_cosine/mfw")],
    "in the same recipe has {:.1f}, more than our MFW, and {:.1f} on few-shot classes.": [
        *(ours("plain/logit_adjust"), ours("plain/logit_adjust", "joint", "few")),
    ],
    "it ends at {:.1f} on CIFAR-100-LT and {:.1f} on CIFAR-10-LT (table 1: {:.1f} and {:.1f}), and ERM at {:.1f} on the latter ({:.1f}).": [
        *(*LDAM, mfw_has("LDAM-DRW"), mfw_has("LDAM-DRW", "cifar10")),
        *(ours("plain/ce", data="cifar10-lt"), mfw_has("ERM", "cifar10")),
    ],
    "MFW ends there at {:.1f}, {:.1f} below the paper, with DRW at {:.1f}, {:.1f} below, and at {:.1f} on CIFAR-100-LT, {:.1f} below.": [
        *(ours("plain/mfw", data="cifar10-lt"), mfw_has("MFW", "cifar10") - ours("plain/mfw", data="cifar10-lt")),
        *(
            ours("plain/mfw_drw", data="cifar10-lt"),
            mfw_has("MFW w/ DRW", "cifar10") - ours("plain/mfw_drw", data="cifar10-lt"),
        ),
        *(ours("plain/mfw_drw"), mfw_has("MFW w/ DRW") - ours("plain/mfw_drw")),
    ],
    "images, from {:.1f} to {:.1f}, with DRW to {:.1f}, but the others fall from {:.1f} to {:.1f} and {:.1f}.": [
        ours(f"plain/{method}", "joint", column, data="cifar10-lt") for column in ("medium", "many") for method in ("ce", "mfw", "mfw_drw")
    ],
    "{:.1f} points over ERM, as in table 1, none of these has.": [
        mfw_has("MFW", "cifar10") - mfw_has("ERM", "cifar10"),
    ],
    "MFW ends at {:.1f} with α = 0.5 and {:.1f} with 0.2, ERM at {:.1f}, and MFW with α = 2": [
        ours(f"plain_60/{method}", data="cifar10-lt") for method in ("mfw_alpha_0-5", "mfw_alpha_0-2", "ce")
    ],
    "has {:.1f} behind nearest means and {:.1f} behind logits shifted by a τ chosen on validation images, as much as MFW with DRW in the "
    "paper ({:.1f}).": [
        *(ours("plain/ce", head, data="cifar10-lt") for head in ("ncm", "la_val")),
        mfw_has("MFW w/ DRW", "cifar10"),
    ],
    "it ends at {:.1f} after 60 epochs, ERM at {:.1f} (`cifar10-step-100/plain_60`, one network each, α = 2; table 1, after 200: {:.1f} "
    "and {:.1f}), and at {:.1f} on the small classes, ERM at {:.1f}.": [
        *(ours(cell, data="cifar10-step") for cell in SIXTY),
        *(mfw_has(method, "cifar10", "step") for method in ("MFW", "ERM")),
        *(ours(cell, "joint", "medium", data="cifar10-step") for cell in SIXTY),
    ],
    "cRT has {:.1f} (on ERM's {:.1f}), LWS {:.1f} ({:.1f}), AFG {:.1f} ({:.1f}), and stage one's classifier with adjusted logits {:.1f} "
    "({:.1f}).": [ours(cell, head, data="cifar10-step") for head in ("crt", "lws", "afg", "logit_adjust") for cell in SIXTY],
    "Nearest means, {1:.1f} on ERM's features and {0:.1f} on MFW's,": [ours(cell, "ncm", data="cifar10-step") for cell in SIXTY],
    "ends at {:.1f}, with {:.1f} on few-shot classes, where cross-entropy has {:.1f} and {:.1f}.": [
        ours(cell, "joint", column) for cell in (MFW, CE) for column in ("all", "few")
    ],
    "cRT, NCM and AFG by {:.1f} to {:.1f}, a shift of logits chosen on validation images by {:.1f}, and the linear classifier for all of "
    "CIFAR-100 by {:.1f}.": [
        *ends([ours(CE, head) - ours(MFW, head) for head in ("crt", "crt_views", "ncm", "afg", "afg_views")]),
        *(ours(CE, head) - ours(MFW, head) for head in ("la_val", "full")),
    ],
    "LWS with views falls to {:.1f} on few-shot classes": [ours(MFW, "lws_views", "few")],
    "differ from the same heads over images by {:.1f} points at most, and by {:.1f} over any group": [
        *(over_images("all"), over_images("many", "medium", "few")),
    ],
    "where those take {:.0f} to {:.0f},": ends([each(c, f"{kind}_images", "seconds")[0] for c in (CE, GRALOSS) for kind in TITLES]),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_its_numbers_are_those_of_the_files(claim):
    said = claim.format(*(value + np.copysign(1e-9, value) for value in CLAIMS[claim]))  # halves go away from zero
    assert said in README


def test_papers_print_two_numbers_for_one_cell():
    step = printed(paper="mfw", data="cifar10", imbalance="step", ratio="100", method="ERM", split="all")
    crt = printed("train.epochs=200", "train.backbone.depth=50", paper="decoupling", data="inaturalist2018", method="cRT", split="all")
    assert f"MFW's ERM on CIFAR-10's step data is {step['1']} in table 1 and {step['5']} in table 5" in README
    assert f"200 epochs) is {crt['3']} in table 3 and {crt['8']} in table 8" in README


def test_what_an_unmixed_image_says_for_a_small_class():
    likelier = [1 / beta.cdf(0.02 / 0.5, alpha, alpha) for alpha in (2, 0.5, 0.2)]  # λ is 0.5 times the beta distribution's
    counts = class_counts("exponential", 5000, 100, 10)
    assert [round(float(f"{value:.1g}")) for value in likelier] == [200, 8, 4]
    assert round(np.exp(np.log(counts[:5]).mean() - np.log(counts[5:]).mean())) == 13


def test_twelve_changes_are_twelve():
    assert len(ONE) == 12


def test_no_trained_head_on_cross_entropy_beats_the_shift_of_logits():
    trained = ("crt", "lws", "afg", "crt_views", "lws_views", "afg_views", "afg_ad")
    assert max(ours(CE, head) for head in trained) < ours(CE, "logit_adjust")
    assert max(ours("plain/ce", head) for head in trained) == pytest.approx(ours("plain/ce", "logit_adjust"), abs=0.1)


def test_the_linear_classifier_prefers_logit_adjustment_in_every_seed():
    assert (each(ADJUST, "full") > each(CE, "full")).all()


def test_two_networks_beat_the_better_one_alone_by_as_much_as_it_says():
    gains = []
    for recipe, one, two, ratio in (
        ("autoaugment", "ce", "graloss", 100),
        ("balanced_softmax", "ce", "graloss", 100),
        ("plain", "ce", "logit_adjust", 100),
        ("autoaugment", "ce", "graloss", 50),
        ("autoaugment", "ce", "graloss", 200),
    ):
        alone = np.maximum(*(each(f"{recipe}/{loss}", "la_val", ratio=ratio) for loss in (one, two)))
        gains += list(each(f"{recipe}/{one}+{two}", "la_val", ratio=ratio) - alone)
    assert min(gains) > 2
    assert max(gains) < 4.55
    assert "Two networks side by side end 2 to 4½ points above the better one alone" in README
