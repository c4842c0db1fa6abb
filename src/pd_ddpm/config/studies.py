"""Studies: papers that one workflow reproduces, each with the same rules and a configuration of its own.

The first study is the configuration itself. The others are modules of the Snakefile. Their keys stand in config/{study}.yaml,
and below the study's name in a user's file.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pd_ddpm.config.errors import ConfigError, KeyProblem
from pd_ddpm.config.resolve import Config, overlay
from pd_ddpm.config.study_names import FIRST, FURTHER, key_path

# Keys about the machine. A user sets them once for all studies.
MACHINE_KEYS = ("scale", "device", "compile", "resources", "save_every_seconds", "changed_training", "retries")

# Keys of a study that follow from its name and from `results`.
DERIVED_KEYS = ("study", "results")

RESERVED_FOLDERS = ("logs", "benchmarks")  # of the results, next to the folders of datasets and studies


class StudyFiles(NamedTuple):
    """Contents of the files that a study's configuration consists of.

    Attributes:
        defaults: config/config.yaml.
        study: config/{study}.yaml.
        demo: config/{study}.demo.yaml.
    """

    defaults: Config
    study: Config
    demo: Config


def study_config(name: str, files: StudyFiles, user: Config) -> Config:
    """Return the configuration of a study, which is not validated yet.

    The files lie over each other: defaults without their datasets, study, and at demo scale its demo. Over them lie the user's
    keys about the machine, and the keys that the user sets for this study.

    Args:
        name: one of `FURTHER`.
        files: contents of the study's files.
        user: keys that the user has set, those of a study below its name.

    Raises:
        ConfigError: the user's keys for the study are no section, or set what follows from its name.
    """
    own = user.get(name)
    if own is not None and not isinstance(own, dict):
        raise ConfigError(KeyProblem((name,), f"{own!r} is not a section with keys", "Set keys of the study below it"))
    if derived := [key for key in DERIVED_KEYS if key in (own or {})]:
        finding = "it follows from the name of the study" if derived == ["study"] else "it follows from `results`"
        raise ConfigError(*(KeyProblem((name, key), finding, "Remove it") for key in derived))
    over = overlay({key: user[key] for key in MACHINE_KEYS if key in user}, own or {})
    base = overlay(files.defaults | {"datasets": {}}, files.study)
    scale = overlay(base, over)["scale"]
    if scale == "demo":
        base = overlay(base, files.demo)
    elif scale == "gpu":  # only the first study has this scale
        over = overlay(over, {"scale": "paper"})
    results = user.get("results", files.defaults["results"])
    return overlay(base, over) | {"study": name, "results": f"{results}/{name}"}


def without_studies(user: Config) -> Config:
    """Return the keys of the first study: all but those below the name of another study."""
    return {key: value for key, value in user.items() if key not in FURTHER}


def check_studies(configs: Mapping[str, Config]) -> None:
    """Raise if studies do not have their names, or if two would write into the same folder of results.

    Args:
        configs: the canonical configuration of each study.

    Raises:
        ConfigError: the user has renamed the first study; or a dataset has the name of a study, of another study's dataset or
            of another folder.
    """
    problems = list(_folder_problems(configs))
    if configs[FIRST]["study"] != FIRST:
        finding = "the workflow sets it"
        problems.append(KeyProblem(("study",), finding, "Remove it; keys of another study stand below its name"))
    if problems:
        raise ConfigError(*problems)


def _folder_problems(configs: Mapping[str, Config]) -> Iterator[KeyProblem]:
    owners = dict.fromkeys((*FURTHER, *RESERVED_FOLDERS), "")
    for study in (*configs.keys() - {FIRST}, FIRST):
        for dataset in configs[study]["datasets"]:
            if dataset in owners:
                owner = f"the study {owners[dataset]} has a dataset of this name" if owners[dataset] else "the name is taken"
                path = key_path(configs[study], "datasets", dataset)
                yield KeyProblem(path, f"{owner}, and both would write the same folder of results", "Rename the dataset")
            owners[dataset] = study


def split_rule_name(rule: str) -> tuple[str, str]:
    """Return the study of a rule and the rule's name in that study: ("patchddm", "train") of "patchddm_train"."""
    study, _, name = rule.partition("_")
    return (study, name) if study in FURTHER else (FIRST, rule)


def by_study(jobs: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the jobs of each study, with the names that rules have in it; studies without jobs are left out.

    Args:
        jobs: named tuples with a field `rule`.
    """
    groups: dict[str, list[Any]] = {}
    for job in jobs:
        study, rule = split_rule_name(job.rule)
        groups.setdefault(study, []).append(job._replace(rule=rule))
    return groups
