"""Classes of datasets in the configuration (below 2 s)."""

import json

import pytest
from configurations import paper_configuration

from pd_ddpm.config import methods
from pd_ddpm.config.errors import ConfigError

TABLE = {"layout": "table", "table": "own.csv", "folder": "scans", "channels": ["FLAIR", "T1"]}
BRATS = {"layout": "brats", "folder": "scans", "channels": ["FLAIR"]}
CLASSES = {4: "white matter", 1: "CSF", 2: "grey matter"}
ORDERED = {1: "CSF", 2: "grey matter", 4: "white matter"}


def test_dataset_classes_are_ordered_by_label_also_after_json() -> None:
    config = paper_configuration(datasets={"own": TABLE | {"classes": CLASSES}})
    assert list(methods.dataset_classes(config, "own").items()) == list(ORDERED.items())
    assert methods.dataset_classes(json.loads(json.dumps(config)), "own") == ORDERED
    text = paper_configuration(datasets={"own": TABLE | {"classes": {str(label): name for label, name in CLASSES.items()}}})
    assert text == config
    assert methods.dataset_classes(config, "wmh") == {}


def test_training_settings_have_the_labels_of_the_dataset_and_not_their_names() -> None:
    config = paper_configuration(datasets={"own": TABLE | {"classes": CLASSES}})
    renamed = paper_configuration(datasets={"own": TABLE | {"classes": CLASSES | {1: "fluid"}}})
    assert methods.training_settings(config, "unet", "own")["labels"] == [1, 2, 4]
    assert methods.training_settings(config, "unet", "own") == methods.training_settings(renamed, "unet", "own")
    assert "labels" not in methods.training_settings(config, "unet", "wmh")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"datasets": {"own": TABLE | {"classes": {}}}}, ["`datasets.own.classes`"]),
        ({"datasets": {"own": TABLE | {"classes": {0: "air"}}}}, ["`datasets.own.classes.0`"]),
        ({"datasets": {"own": TABLE | {"classes": {1: "a", 2: "a"}}}}, ["a occurs more than once. Give each class"]),
        ({"datasets": {"own": TABLE | {"classes": {1: "mean"}}}}, ["'mean' has another meaning in tables of scores"]),
        ({"datasets": {"own": TABLE | {"classes": {1: "a;b"}}}}, ["`datasets.own.classes.1`"]),
        (
            {"datasets": {"own": TABLE | {"networks_of": "wmh", "classes": {1: "WMH"}}}},
            ["`datasets.own.classes`: 'own' and 'wmh' do not name the same classes"],
        ),
        (
            {"datasets": {"own": BRATS | {"lesion_labels": [1], "classes": {1: "core"}}}},
            ["`datasets.own.lesion_labels`: the labels are named in `classes`"],
        ),
        (
            {
                "dataset": "own",
                "datasets": {"own": TABLE | {"classes": CLASSES}},
                "networks": {"denoiser": {"predicts": "mask", "likelihood_skip": True}},
                "methods": {"pd-ddpm": {"start_reliability": "validation"}},
            },
            ["`methods.pd-ddpm.start_reliability`: 'own' names classes", "Set it to none"],
        ),
    ],
)
def test_validate_names_key_and_remedy_of_each_fault_of_classes(change: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        paper_configuration(**change)
    assert all(word in str(raised.value) for word in words), raised.value
