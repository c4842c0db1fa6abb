"""Validation of a whole configuration: what it accepts, its messages, and its canonical form."""

import pytest
import yaml
from workflow_runs import ROOT

from pd_ddpm.config import load, resolve
from pd_ddpm.config.consistency import find_doubts
from pd_ddpm.config.errors import ConfigError
from pd_ddpm.config.exhibits import caption_note
from pd_ddpm.config.resolve import overlay
from pd_ddpm.config.validate import validate

PRESEGMENTED = {"presegmented_share": 0.5, "predicts": "mask"}
SKIP = {"denoiser": {"predicts": "mask", "likelihood_skip": True}, "truncated-denoiser": {"initialise_from": "denoiser"}}
MEAN = {"label": "Mean", "segmenter": "mean", "mean_of": ["ddpm", "attunet"], "denoiser": None}
AFFINE = {"rotation_degrees": 5.0, "scale": 0.1, "shear_degrees": 0.0, "probability": 0.5, "unit": "mm"}
BIDS = {"layout": "bids", "folder": "data/own", "channels": ["FLAIR", "T1"]}


def test_validate_accepts_all_shipped_configurations(paper: dict, demo: dict) -> None:
    validate(paper)
    validate(demo)
    validate(overlay(demo, yaml.safe_load((ROOT / "config" / "open_ms.example.yaml").read_text(encoding="utf-8"))))


def test_validate_accepts_claims_without_a_method(paper: dict) -> None:
    rows = {"table1": ["attunet", "ddpm", "pd-ddpm"], "claims": {"tdpm": None, "es_ddpm": None}}
    validate(overlay(paper, {"exhibits": rows}))


def test_gpu_scale_has_the_papers_networks_patch_and_reverse_steps(paper: dict) -> None:
    gpu = validate(load.read(None, {"scale": "gpu"}))
    free = {"steps", "validate_every", "validation_slices"}
    only_tdpm = {"initialise_from", "warm_up", "head"}
    for name in paper["networks"]:
        free_here = free | (only_tdpm if name == "truncated-denoiser" else set())
        settings = resolve.network(paper, name)
        differing = {key for key, value in settings.items() if resolve.network(gpu, name)[key] != value}
        assert differing <= free_here, name
    for key in ("reverse_steps", "sampler", "variance"):
        assert gpu["sampling"][key] == paper["sampling"][key]
    assert gpu["exhibits"]["fig3_tprime"] == paper["exhibits"]["fig3_tprime"]
    assert caption_note(gpu, "phantom-fine").startswith("GPU scale: the paper's networks, trained for minutes")
    assert gpu["device"] == "auto"
    assert gpu["resources"]["sample"]["gpu"] == 1


@pytest.mark.parametrize(
    "sampling",
    [
        {"variance": "small"},
        {"large_variance_over_jumps": True},
        {"sampler": "ddim"},
        {"reverse_steps": 1},  # adds no noise
    ],
)
def test_validate_accepts_jumps_without_large_variance_or_with_permission(paper: dict, sampling: dict) -> None:
    validate(overlay(paper, {"sampling": {"reverse_steps": 20} | sampling}))


def test_validate_accepts_initial_weights_of_the_same_shape(paper: dict) -> None:
    validate(overlay(paper, {"networks": {"truncated-denoiser": {"initialise_from": "denoiser"}}}))
    validate(overlay(paper, {"networks": {"bayesian-unet": {"initialise_from": "unet"}}}))
    recycled = {"predicts": "mask", "strategy": "recycling_noise"}
    validate(overlay(paper, {"networks": {"denoiser": recycled, "truncated-denoiser": {"initialise_from": "denoiser"}}}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trainin": {}}, ["`trainin`: unknown key", "Did you mean 'training'"]),
        ({"training": {"stepz": 3}}, ["`training.stepz`: unknown key", "Did you mean 'steps'"]),
        ({"networks": {"denoiser": {"multiplier": [1]}}}, ["`networks.denoiser.multiplier`", "Did you mean 'multipliers'"]),
        ({"networks": {"unet": {"T": 1000}}}, ["`networks.unet.T`: unknown key"]),
        ({"training": {"batch": "many"}}, ["`training.batch`", "a whole number"]),
        ({"training": {"learning_rate": 0}}, ["`training.learning_rate`", "above 0"]),
        ({"scale": "dmo"}, ["`scale`", "demo"]),
        ({"dataset": "wnh"}, ["'wnh' is not one of datasets", "Did you mean 'wmh'"]),
        ({"methods": {"pd-ddpm": {"t_start": 3000}}}, ["`methods.pd-ddpm.t_start`: T' = 3000", "from 1 to 1000"]),
        ({"methods": {"pd-ddpm": {"t_start": 0}}}, ["`methods.pd-ddpm.t_start`", "at least 1"]),
        ({"methods": {"ddpm": {"t_start": 300}}}, ["`methods.ddpm.t_start`: a chain from noise starts at T = 1000"]),
        ({"methods": {"pd-ddpm": {"network": "unet"}}}, ["segmenter 'diffusion' cannot use the unet"]),
        ({"methods": {"pd-ddpm": {"presegmentation": "atunet"}}}, ["'atunet' is not one of methods", "Did you mean 'attunet'"]),
        ({"methods": {"pd-ddpm": {"presegmentation": "pd-ddpm"}}}, ["starts from a pre-segmentation itself"]),
        (
            {"networks": {"unet": {"spatial_dims": 3}}},
            ["`networks.unet.crop`: it has 2 sizes, but the network has 3 spatial dimensions. Set one size per dimension"],
        ),
        ({"networks": {"unet": {"flip": [0, 2]}}}, ["`networks.unet.flip`: axis 2 is beyond the 2 spatial dimensions"]),
        (
            {"networks": {"denoiser": {"spatial_dims": 3, "crop": [64, 64, 64]}}},
            ["`networks.denoiser.validation_presegmenter`: 'attunet' has spatial_dims 2, but 'denoiser' 3"],
        ),
        (
            {"networks": {"attunet": {"grid": {"spacing_mm": 2.0}}}},
            ["`networks.denoiser.validation_presegmenter`: 'attunet' sees another `grid` than 'denoiser'", "or null"],
        ),
        ({"networks": {"unet": {"grid": {"spacing": 2.0}}}}, ["`networks.unet.grid.spacing`: unknown key", "'spacing_mm'"]),
        (
            {"networks": {"unet": {"affine": AFFINE | {"shift": [0.1, 0.1, 0.1]}}}},
            ["`networks.unet.affine.shift`: it has 3 numbers, but the network has 2 spatial dimensions"],
        ),
        (
            {"networks": {"unet": {"log_gamma": 0.3}}},
            ["`networks.unet.log_gamma`: negative intensities have no power", "`preparation` of 'wmh'", "unit_range"],
        ),
        (
            {"grid": {"padded_size": [64, 64, 64]}},
            ["`grid.padded_size`: it has 3 sizes, but 'unet' has 2 spatial dimensions", "`grid.padded_size` for 'unet'"],
        ),
        (
            {"networks": {"unet": {"grid": {"padded_size": [64, 64, 64]}}}},
            ["`networks.unet.grid.padded_size`: it has 3 sizes, but 'unet' has 2 spatial dimensions"],
        ),
        (
            {"networks": {"denoiser": {"groups": 48}}},
            ["`networks.denoiser.groups`: 48 does not divide a width of 128, 256, 512"],
        ),
        ({"networks": {"denoiser": {"t_max": 300}}}, ["trained up to t_max = 300 only"]),
        ({"networks": {"denoiser": {"t_max": 2000}}}, ["t_max", "above T = 1000"]),
        (
            {"networks": {"denoiser": {"strategy": "recycling_next", "predicts": "mask", "t_max": 1}}},
            ["strategy", "come from a later timestep than t, but t_max = 1 is the only one", "Raise `t_max`"],
        ),
        (
            {"networks": {"denoiser": {"likelihood_skip": True}}},
            ["likelihood_skip", "Set `predicts: mask`"],
        ),
        (
            {"methods": {"ddpm": {"stop_after": 6, "reverse_steps": 5, "variance": "small"}}},
            ["`methods.ddpm.stop_after`: 6 is more than the 5 steps of the chain", "Lower it, or set it to null"],
        ),
        (
            {"networks": {"denoiser": {"strategy": "recycling_noise"}}},
            ["`networks.denoiser.strategy`: the target must be the ground truth", "Set `predicts: mask`"],
        ),
        (
            {"networks": {"denoiser": {"strategy": "recycling_noise", "predicts": "mask", "t_max": 300}}},
            ["strategy", "needs t = T = 1000, but t_max = 300", "Set `strategy: recycling_next` or raise `t_max`"],
        ),
        (
            {"networks": {"truncated-denoiser": {"strategy": "recycling_noise", "predicts": "mask"}}},
            ["strategy", "needs t = T = 1000, but t_max = 300", "Set `strategy: recycling_next` or raise `t_max`"],
        ),
        (
            {"networks": {"denoiser": {"presegmented_share": 0.5}}},
            ["`networks.denoiser.presegmented_share`: the target must be", "`presegmented_share: 0`"],
        ),
        (
            {"networks": {"denoiser": PRESEGMENTED | {"strategy": "recycling_noise", "strategy_share": 0.75}}},
            ["`networks.denoiser.presegmented_share`: 0.5 and strategy_share 0.75 are more than all", "Set 0.25 or less"],
        ),
        (
            {"networks": {"denoiser": PRESEGMENTED | {"presegmented_by": "atunet"}}},
            ["`networks.denoiser.presegmented_by`", "Did you mean 'attunet'"],
        ),
        (
            {"networks": {"denoiser": PRESEGMENTED | {"presegmented_by": "probabilistic-unet"}}},
            ["`networks.denoiser.presegmented_by`: the probabilistic_unet", "no deterministic mask", "attention_unet"],
        ),
        (
            {
                "networks": {
                    "denoiser": PRESEGMENTED | {"presegmented_by": "second"},
                    "second": {"like": "attunet", "initialise_from": "attunet"},
                }
            },
            ["'second' begins with the weights of 'attunet', which has seen the cases", "`initialise_from: null`"],
        ),
        ({"networks": {"denoiser": {"inner_folds": 1}}}, ["`networks.denoiser.inner_folds`", "at least 2"]),
        ({"networks": {"unet": {"inner_fold": "4-of-3"}}}, ["`networks.unet.inner_fold`: 4-of-3 is no part of several"]),
        ({"networks": {"unet": {"inner_fold": "1-of-1"}}}, ["`networks.unet.inner_fold`: 1-of-1 is no part of several"]),
        ({"networks": {"unet": {"inner_fold": "1/3"}}}, ["`networks.unet.inner_fold`", "Set text such as '1-of-3'"]),
        ({"networks": {"denoiser": {"strategy_share": 1.5}}}, ["`networks.denoiser.strategy_share`", "at most 1"]),
        ({"networks": {"denoiser": {"strategy": "recycling"}}}, ["`networks.denoiser.strategy`", "recycling_noise"]),
        ({"sampling": {"reverse_steps": 4000}}, ["`methods.pd-ddpm.reverse_steps`: 4000"]),
        (
            {"sampling": {"reverse_steps": 20}},
            [
                "`methods.pd-ddpm.variance`: 'large' is meant for single steps",
                "a chain of 6 steps from T' = 300",
                "Set it or `sampling.variance` to `small`, or set `large_variance_over_jumps: true`",
            ],
        ),
        (
            {"exhibits": {"table1": ["pd-ddpm@reverse_steps=20"]}},
            ["`methods.pd-ddpm@reverse_steps=20.variance`", "Write 'pd-ddpm@reverse_steps=20@variance=small'"],
        ),
        ({"exhibits": {"fig3_tprime": {"t_start": [50, 1200]}}}, ["T' = 1200 is above T = 1000"]),
        ({"exhibits": {"table1": ["unett"]}}, ["'unett' is not one of methods", "Did you mean 'unet'"]),
        ({"exhibits": {"table1": ["pd-ddpm@tstart=3"]}}, ["sets 'tstart'", "Did you mean 't_start'"]),
        (
            {"exhibits": {"table1": ["ddpm@variance=larg"]}},
            ["ddpm@variance=larg", "'larg' is not valid", "Did you mean 'large'"],
        ),
        ({"exhibits": {"table1": ["ddpm@samples=many"]}}, ["ddpm@samples=many", "a whole number"]),
        ({"exhibits": {"table1": ["attunet@samples=5"]}}, ["sets 'samples', which 'attunet' does not have"]),
        ({"exhibits": {"table1": ["bayesian-unet@sampler=ddim"]}}, ["sets 'sampler', which 'bayesian-unet' does not have"]),
        ({"methods": {"bayesian-unet": {"network": "unet"}}}, ["needs a network with dropout", "'unet' is 0"]),
        ({"methods": {"bayesian-unet": {"network": "attunet"}}}, ["segmenter 'dropout' cannot use the attention_unet"]),
        (
            {"methods": {"tdpm": {"t_start": 200}}},
            ["learned_prior needs a truncated_denoising_unet whose t_max is 200"],
        ),
        ({"methods": {"tdpm": {"network": "denoiser"}}}, ["'denoiser' is a denoising_unet with t_max = 1000"]),
        ({"methods": {"attunet-early-3": {"checkpoint": "early-4"}}}, ["keeps 3 early checkpoints"]),
        ({"methods": {"attunet-early-3": {"like": "atunet"}}}, ["methods.attunet-early-3.like", "Did you mean 'attunet'"]),
        ({"methods": {"attunet": {"like": "attunet-early-3"}}}, ["leads back to itself"]),
        ({"methods": {"zero": {"like": "unet"}}}, ["zero"]),
        (
            {"methods": {"es-ddpm": {"samples": 9}}},
            ["each of 9 members starts from a member of 'probabilistic-unet', which has 5"],
        ),
        ({"networks": {"truncated-denoiser": {"initialise_from": "denoisr"}}}, ["initialise_from", "Did you mean 'denoiser'"]),
        (
            {"networks": {"attunet": {"initialise_from": "unet"}}},
            ["the attention_unet 'attunet' cannot begin with the weights of the unet 'unet'"],
        ),
        (
            {"networks": {"truncated-denoiser": {"initialise_from": "denoiser", "channels": 64, "skip": "average"}}},
            ["'truncated-denoiser' and 'denoiser' differ in channels, skip"],
        ),
        (
            {"networks": {"denoiser": {"validation_presegmenter": "atunet"}}},
            ["`networks.denoiser.validation_presegmenter`: 'atunet' is not one of networks", "Did you mean 'attunet'"],
        ),
        (
            {"networks": {"denoiser": {"validation_presegmenter": "denoiser"}}},
            ["the denoising_unet 'denoiser' has no deterministic mask", "attention_unet or imgx_unet or unet or"],
        ),
        (
            {"networks": {"denoiser": {"validation_presegmenter": "probabilistic-unet"}}},
            ["the probabilistic_unet 'probabilistic-unet' has no deterministic mask"],
        ),
        ({"networks": {"unet": {"validation_presegmenter": "attunet"}}}, ["`networks.unet.validation_presegmenter`: unknown"]),
        ({"networks": {"denoiser": {"validation_chain_steps": 1001}}}, ["1001 is more than the T = 1000 steps"]),
        (
            {"methods": {"pd-ddpm": {"network": "denoiser@t_max=300@validation_presegmenter=null"}}},
            ["no chain can validate the network", "Name a deterministic network, or raise `t_max`"],
        ),
        (
            {"methods": {"pd-ddpm": {"network": "denoiser@validation_presegmenter=unett"}}},
            ["'unett' is not one of networks", "Did you mean 'unet'"],
        ),
        ({"exhibits": {"compared_with": "pd-ddpm@t_start=100"}}, ["`exhibits.compared_with`", "Add it to `exhibits.table1`"]),
        (
            {"exhibits": {"table1": ["ddpm", "tdpm", "es-ddpm", "pd-ddpm", "pd-ddpm@t_start=300"]}},
            ["pd-ddpm stands for two rows"],
        ),
        (
            {"methods": {"ddpm": {"label": "PD-DDPM"}}},
            ["the label PD-DDPM stands for two rows"],
        ),
        ({"exhibits": {"pareto": {"members": [2, 5]}}}, ["`exhibits.pareto.members`", "Add 1"]),
        ({"exhibits": {"pareto": {"methods": ["unet"]}}}, ["unet has no chain of reverse steps to shorten"]),
        (
            {"exhibits": {"table2": {"presegmentations": [{"method": "attunet@precision=float32", "printed": None}]}}},
            ["attunet@precision=float32 has no label", "an entry of `methods`"],
        ),
        (
            {"exhibits": {"claims": {"tdpm": "pd-ddpm@t_start=50"}}},
            ["pd-ddpm@t_start=50 is not a row of Table 1", "Add it to `exhibits.table1`"],
        ),
        (
            {"exhibits": {"fig4_ensemble": {"method": "attunet"}}},
            ["`exhibits.fig4_ensemble.method`: 'attunet' samples no ensemble members"],
        ),
        ({"methods": {"mean": MEAN | {"mean_of": ["ddpm"]}}}, ["`methods.mean.mean_of`", "at least 2"]),
        ({"methods": {"mean": MEAN | {"mean_of": ["ddpm", "atunet"]}}}, ["`methods.mean.mean_of`", "Did you mean 'attunet'"]),
        ({"methods": {"mean": MEAN | {"samples": 5}}}, ["`methods.mean.samples`: unknown key"]),
        (
            {"methods": {"mean": MEAN, "again": MEAN | {"mean_of": ["mean", "attunet"]}}},
            ["`methods.again.mean_of`: mean is a mean itself", "List the methods that it averages"],
        ),
        (
            {"methods": {"mean": MEAN | {"mean_of": ["unet", "attunet"], "denoiser": "denoiser"}}},
            ["`methods.mean.denoiser`: none of unet, attunet samples from a denoiser"],
        ),
        (
            {"methods": {"mean": MEAN | {"denoiser": "attunet"}}},
            ["`methods.ddpm@network=attunet.network`", "segmenter 'diffusion' cannot use the attention_unet 'attunet'"],
        ),
        (
            {"methods": {"mean": MEAN, "pd-ddpm": {"presegmentation": "mean"}}},
            ["`methods.pd-ddpm.presegmentation`: 'mean' is a mean of other methods"],
        ),
        (
            {"methods": {"pd-ddpm": {"start_reliability": "validation"}}},
            ["`methods.pd-ddpm.start_reliability`: 'denoiser' has no likelihood skip", "`start_reliability: none`"],
        ),
        (
            {"networks": SKIP, "methods": {"pd-ddpm": {"start_reliability": "validation", "harden": False}}},
            ["`methods.pd-ddpm.start_reliability`: 'attunet' with harden false is no single mask", "`harden: true`"],
        ),
        (
            {"networks": SKIP, "methods": {"es-ddpm": {"start_reliability": "validation"}}},
            ["`methods.es-ddpm.start_reliability`: 'probabilistic-unet' with harden true is no single mask"],
        ),
        (
            {
                "networks": SKIP,
                "methods": {"pd-ddpm": {"start_reliability": "validation", "presegmentation": "attunet-early-1"}},
            },
            ["but 'attunet-early-1' uses early-1", "`checkpoint: selected`"],
        ),
        (
            {"networks": SKIP, "methods": {"pd-ddpm": {"start_reliability": "validation", "t_start": 1}}},
            ["`methods.pd-ddpm.start_reliability`: the chain has one step", "Raise `reverse_steps`"],
        ),
        ({"methods": {"pd-ddpm": {"network": "denoiser@t_maks=9"}}}, ["sets 't_maks'", "Did you mean 't_max'"]),
        (
            {"methods": {"pd-ddpm": {"network": "denoiser@skip=mean"}}},
            ["`networks.denoiser@skip=mean.skip`", "'mean' is not valid"],
        ),
        ({"methods": {"pd-ddpm": {"network": "denoiser@t_max=200"}}}, ["trained up to t_max = 200 only"]),
        ({"splits": [0, 7]}, ["`splits`", "[7]"]),
        ({"resources": {"train": {"gpu": 2}}}, ["`resources.train.gpu`", "is 2, but a training uses one GPU", "Set it to 1"]),
        ({"datasets": {"wmh": {"layout": "table"}}}, ["`datasets.wmh.table`"]),
        ({"datasets": {"wmh": {"masks": "*_mask.nii.gz"}}}, ["datasets.wmh.masks", "layout 'bids'"]),
        ({"datasets": {"own": {"like": "whm"}}}, ["datasets.own.like", "'whm' is not one of datasets", "Did you mean 'wmh'"]),
        ({"datasets": {"wmh": {"like": "wmh-held-out"}}}, ["datasets.wmh-held-out.like", "leads back to itself"]),
        ({"datasets": {"own": {"like": "wmh", "networks_of": "wnh"}}}, ["datasets.own.networks_of", "Did you mean 'wmh'"]),
        (
            {"datasets": {"own": {"like": "wmh", "networks_of": "wmh"}}},
            ["'own' reads the same cases that the networks of 'wmh'"],
        ),
        ({"datasets": {"own": {"like": "wmh", "networks_of": "own"}}}, ["nothing is trained on 'own'"]),
        ({"datasets": {"own": BIDS | {"networks_of": "wmh-held-out"}}}, ["nothing is trained on 'wmh-held-out'"]),
        (
            {"datasets": {"own": BIDS | {"networks_of": "wmh", "channels": ["T1", "FLAIR"]}}},
            ["'own' has the channels ['T1', 'FLAIR'], but 'wmh' has ['FLAIR', 'T1']", "the same channels in the same order"],
        ),
        ({"datasets": {"wmh-held-out": {"networks_of": None}}}, ["held-out cases are only tested. Name the dataset"]),
        ({"datasets": {"wmh-held-out": {"part": "heldout"}}}, ["`datasets.wmh-held-out.part`", "Did you mean 'held_out'"]),
        (
            {"datasets": {"own": BIDS | {"roles": "patch_ddm"}}},
            ["`datasets.own.roles`: layout 'bids' has no roles 'patch_ddm'. Remove it."],
        ),
        ({"datasets": {"own": BIDS | {"lesion_labels": [1]}}}, ["`datasets.own.lesion_labels`: it requires layout 'brats'"]),
        ({"datasets": {"own": BIDS | {"part": "training"}}}, ["`datasets.own.part`: it requires layout 'wmh_challenge'"]),
        (
            {"datasets": {"again": {"like": "wmh-held-out", "folder": "elsewhere"}}},
            ["wmh-held-out and again would both be shown as held_out.csv"],
        ),
        *(
            ({"datasets": {name: BIDS}}, [f"`datasets.{name}`: the name is not safe in paths and tables. Use letters, digits"])
            for name in ("x;id>pwned;y", "../../x", "my data (2)", "=cmd", "a/b", ".hidden", "")
        ),
        ({"networks": {"../x": {"like": "unet"}}}, ["`networks.../x`: the name is not safe"]),
        ({"methods": {"un et": {"like": "unet"}}}, ["`methods.un et`: the name is not safe"]),
        ({"methods": {"unet": {"label": "=1+1"}}}, ["`methods.unet.label`: spreadsheets would execute '=1+1'. Begin it"]),
        ({"evaluate_held_out": "yes"}, ["`evaluate_held_out`", "true or false"]),
        ({"evaluate_heldout": True}, ["`evaluate_heldout`: unknown key", "Did you mean 'evaluate_held_out'"]),
        ({"datasets": {"own": BIDS | {"mask": "*"}}}, ["`datasets.own.mask`: unknown key", "Did you mean 'masks'"]),
        ({"datasets": {"own": BIDS | {"masks": "/x/*_mask.nii"}}}, ["`datasets.own.masks`", "such as"]),
        ({"datasets": {"own": BIDS | {"images": {"FLAR": "*"}}}}, ["'FLAR' is not one of channels", "Did you mean 'FLAIR'"]),
    ],
)
def test_validate_names_key_and_remedy_of_each_fault(paper: dict, change: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(overlay(paper, change))
    for word in words:
        assert word in str(raised.value)


def test_validate_merges_a_dataset_like_another_key_by_key(paper: dict) -> None:
    accepted = overlay(paper, {"datasets": {"wmh": {"download": {"accept_licence": True}}}})
    more = overlay(accepted, {"datasets": {"wmh-held-out": {"download": {"source": "copy.zip"}}}})
    validate(more)
    first, held_out = validate(more)["datasets"]["wmh"], validate(more)["datasets"]["wmh-held-out"]
    assert first == accepted["datasets"]["wmh"]
    assert held_out["download"] == first["download"] | {"source": "copy.zip"}
    assert held_out["download"]["accept_licence"]
    assert {key: held_out[key] for key in ("layout", "channels", "part", "folder", "networks_of")} == {
        "layout": "wmh_challenge",
        "channels": ["FLAIR", "T1"],
        "part": "held_out",
        "folder": "data/wmh-held-out",
        "networks_of": "wmh",
    }


def test_validate_accepts_a_method_with_a_variation_of_a_network(paper: dict) -> None:
    """One denoiser for each T', as the paper can be read."""
    exhibits = {"fig3_tprime": {"t_start": [50, 300]}, "pareto": {"t_start": [300]}}
    validate(overlay(paper, {"methods": {"pd-ddpm": {"network": "denoiser@t_max=300"}}, "exhibits": exhibits}))


def test_find_doubts_names_too_few_steps_for_figure_3(paper: dict) -> None:
    assert not list(find_doubts(validate(paper)))
    few = overlay(paper, {"methods": {"pd-ddpm": {"reverse_steps": 19, "variance": "small"}}})
    (doubt,) = find_doubts(validate(few))
    assert str(doubt).startswith("`methods.pd-ddpm.reverse_steps`: 19 over T = 1000 are too few for Figure 3")
    assert str(doubt).endswith("Set at least 20.")
    assert not list(find_doubts(validate(overlay(few, {"methods": {"pd-ddpm": {"reverse_steps": 20}}}))))


def test_validate_reports_all_problems_at_once(paper: dict) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(overlay(paper, {"trainin": {}, "splits": "all", "grid": {"region": "box"}}))
    assert len(raised.value.problems) == 3


def test_validate_reports_a_problem_once_for_all_entries_that_inherit_it(paper: dict) -> None:
    changes = {
        "training": {"batch": "many"},
        "sampling": {"shardz": 2},
        "networks": {"denoiser": {"multiplier": [1], "T": 0}},
        "methods": {"pd-ddpm": {"network": "unet"}},
        "datasets": {"wmh": {"download": {"licens": "x"}}},
    }
    with pytest.raises(ConfigError) as raised:
        validate(overlay(paper, changes))
    assert [".".join(problem.path) for problem in raised.value.problems] == [
        "datasets.wmh.download.licens",
        "training.batch",
        "networks.denoiser.T",
        "networks.denoiser.multiplier",
        "sampling.shardz",
    ]
    with pytest.raises(ConfigError) as raised:
        validate(overlay(paper, {"methods": {"pd-ddpm": {"network": "unet"}}}))
    assert [problem.path for problem in raised.value.problems] == [("methods", "pd-ddpm", "network")]


def test_validate_names_an_overridden_key_in_the_entry_that_overrides_it(paper: dict) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(overlay(paper, {"networks": {"unet": {"dropout": 2}, "bayesian-unet": {"dropout": 3}}}))
    assert [problem.path[1] for problem in raised.value.problems] == ["unet", "bayesian-unet"]


def test_validate_gives_equal_dictionaries_for_equal_settings(paper: dict) -> None:
    """Key order and number types do not count, in any section, since a changed parameter re-runs a rule."""
    changes = {
        "training": {"validate_every": 1000.0, "weight_decay": 1.0e-5, "batch": 12.0, "gradient_clip": 1},
        "grid": {"margin_mm": 8.0, "minimum_brain_cm2": 1},
        "networks": {"unet": {"steps": 50000}, "denoiser": {"T": 1000.0, "dropout": 0}},
        "sampling": {"eta": 0, "gate": {"slices": 4.0}},
        "methods": {"ddpm": {"t_start": 1000.0, "eta": 0, "samples": 5}},
        "datasets": {"wmh": {"download": {"connections": 4.0}}},
        "evaluation": {"band_mm": 5},
        "exhibits": {"fig4_ensemble": {"subsets": 100.0}},
        "save_every_seconds": 300,
    }
    given = {key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in paper.items()}
    given["datasets"] = paper["datasets"]
    canonical = validate(overlay(given, changes))
    reference = validate(paper)
    for section in reference:
        for name in reference[section] if section in ("networks", "methods", "datasets") else [None]:
            one, other = (config[section] if name is None else config[section][name] for config in (canonical, reference))
            assert repr(one) == repr(other)
    for name in paper["networks"]:
        assert repr(resolve.network(canonical, name)) == repr(resolve.network(reference, name))
    for name in [*paper["methods"], "pd-ddpm@t_start=50"]:
        assert repr(resolve.method(canonical, name)) == repr(resolve.method(reference, name))
    assert repr(validate(reference)) == repr(reference)
