"""Sentences for mistakes in a command line."""

from pathlib import Path

import pytest

from snakemake_logger_plugin_pd_ddpm.explain import config_files, explain

TARGETS = ["results/table1.csv", "results/table2.csv", "results/fig3_tprime.pdf"]


def test_config_files_are_those_of_the_option_only() -> None:
    arguments = ["results/table1.csv", "--cores", "8", "--configfile", "a.yaml", "b.yaml", "-n", "--config", "scale=paper"]
    assert config_files(arguments) == [Path("a.yaml"), Path("b.yaml")]
    assert config_files(["-n"]) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("mine.yaml", None, "mine.yaml: the configuration file does not exist. Correct the path."),
        ("results/table1.csv", None, "Put the files to make before `--configfile`, or after `--`."),
        ("results/fig3_tprime.pdf", "%PDF", "Put the files to make before `--configfile`, or after `--`."),
        ("mine.yaml", "a:\n\tb: 1\n", "mine.yaml, line 2, column 1: the line contains a tab"),
        ("mine.yaml", "a: 1\nb: ]\n", "mine.yaml, line 2, column 4: is not valid yaml"),
        ("mine.yaml", "a: [1\n", "mine.yaml, line 2, column 1: is not valid yaml"),
        ("mine.yaml", "just text\n", "mine.yaml: holds no keys."),
    ],
)
def test_wrong_config_file_is_named_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | None, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    sentence = explain("FileNotFoundError: ...", ["-n", "--configfile", name], TARGETS)
    assert sentence is not None
    assert expected in sentence
    assert "\n" not in sentence


def test_mistyped_target_names_the_nearest_one() -> None:
    message = "MissingRuleException:\nNo rule to produce results/tabel1.csv (if you use input functions make sure ...)."
    assert explain(message, [], TARGETS) == (
        "results/tabel1.csv: no rule makes this file. Did you mean results/table1.csv? "
        "`snakemake --summary` lists the files of a whole run."
    )


def test_other_errors_keep_the_message_of_snakemake(tmp_path: Path) -> None:
    (tmp_path / "right.yaml").write_text("scale: demo\n", encoding="utf-8")
    assert explain("WorkflowError: locked", ["--configfile", str(tmp_path / "right.yaml")], TARGETS) is None
