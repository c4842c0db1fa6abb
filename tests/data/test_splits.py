"""Splits: no leakage, even folds, independent of the order of rows. About 3 s."""

import numpy as np
import pandas as pd
import pytest

from pd_ddpm.data.cases.table import write_table
from pd_ddpm.data.prepared import cases_by_role
from pd_ddpm.data.splits import check_no_leakage, make_splits, make_test_only_splits


def cohort(**counts: int) -> pd.DataFrame:
    rows = [(f"{site}-{k}", site) for site, count in counts.items() for k in range(count)]
    return pd.DataFrame(rows, columns=["case", "site"])


CHALLENGE = cohort(Utrecht=20, Singapore=20, GE3T=20)


def test_make_splits_tests_every_case_once():
    table = make_splits(CHALLENGE, folds=5, seed=3, stratify=True, splits=range(5))
    assert list(table.columns) == ["split", "role", "case", "site", "fold", "patient"]
    assert len(table) == 5 * 60
    for split, rows in table.groupby("split"):
        assert rows["role"].value_counts().to_dict() == {"train": 36, "validation": 12, "test": 12}
        assert set(rows.loc[rows["role"] == "test", "fold"]) == {split}
        assert set(rows.loc[rows["role"] == "validation", "fold"]) == {(split + 1) % 5}
        assert rows.groupby(["role", "site"]).size().to_dict() == {
            (role, site): count
            for role, count in (("train", 12), ("validation", 4), ("test", 4))
            for site in ("GE3T", "Singapore", "Utrecht")
        }
    assert sorted(table.loc[table["role"] == "test", "case"]) == sorted(CHALLENGE["case"])
    assert table.groupby("case")["fold"].nunique().eq(1).all()


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_make_splits_makes_even_folds(stratify, seed):
    generator = np.random.default_rng(seed)
    counts = {f"site{k}": int(count) for k, count in enumerate(generator.integers(1, 14, 5))}
    for folds in (3, 4, 5, 7):
        table = make_splits(cohort(**counts), folds, seed, stratify, [0])
        sizes = table.groupby("fold").size()
        assert len(sizes) == folds
        assert sizes.max() - sizes.min() <= 1
        if stratify:
            per_site = table.groupby(["site", "fold"]).size().unstack(fill_value=0)
            assert ((per_site.max(axis=1) - per_site.min(axis=1)) <= 1).all()


def test_make_splits_depends_on_the_seed_not_on_row_order():
    first = make_splits(CHALLENGE, 5, 0, True, [0, 3])
    for seed in range(3):
        shuffled = CHALLENGE.sample(frac=1, random_state=seed)
        pd.testing.assert_frame_equal(make_splits(shuffled, 5, 0, True, [0, 3]), first)
    assert not make_splits(CHALLENGE, 5, 1, True, [0, 3]).equals(first)
    pd.testing.assert_frame_equal(make_splits(CHALLENGE, 5, 0, True, [3]), first[first["split"] == 3].reset_index(drop=True))


def test_make_splits_shuffles_uniformly():
    # Each case should land in each of three folds about a third of the time: chi-squared per case below its 1e-4 quantile.
    small = cohort(A=6, B=3)
    counts = pd.concat([make_splits(small, 3, seed, True, [0]) for seed in range(300)]).groupby(["case", "fold"]).size()
    assert (((counts - 100) ** 2 / 100).groupby("case").sum() < 18.4).all()


def test_make_splits_uses_the_folds_of_the_table():
    folds = [k % 3 for k in range(9)]
    cases = cohort(A=9).assign(fold=pd.array(folds, "Int64"), role="")
    table = make_splits(cases, 3, 0, True, [1])
    assert set(table.loc[table["role"] == "test", "case"]) == {"A-1", "A-4", "A-7"}
    assert set(table.loc[table["role"] == "validation", "case"]) == {"A-2", "A-5", "A-8"}
    with pytest.raises(ValueError, match=r"has the folds \[0, 1, 2\], but `folds\.count` is 5, so each of 0 to 4"):
        make_splits(cases, 5, 0, True, [0])
    cases["fold"] = pd.array([None, *folds[1:]], "Int64")
    with pytest.raises(ValueError, match="column fold: it is empty for A-0"):
        make_splits(cases, 3, 0, True, [0])


def test_make_splits_makes_one_split_of_roles():
    cases = cohort(A=4).assign(role=["test", "train", "train", "train"], fold=pd.array([None] * 4, "Int64"))
    table = make_splits(cases, 5, 0, True, [0])
    assert table[["split", "role", "case"]].to_numpy().tolist() == [
        [0, "train", "A-1"],
        [0, "train", "A-2"],
        [0, "train", "A-3"],
        [0, "test", "A-0"],
    ]
    assert table["fold"].isna().all()
    with pytest.raises(ValueError, match=r"roles in the table make one split only\. Set it to \[0\]"):
        make_splits(cases, 5, 0, True, [0, 1])
    for column, values, finding in (
        ("role", ["test", "", "train", "train"], "column role: it is empty for A-1"),
        ("role", ["train"] * 4, "no case has the role test"),
        ("role", ["test"] * 4, "no case has the role train"),
        ("role", ["test", "train", "train", "dev"], "unknown role dev"),
        ("fold", [0, 1, 2, 0], "roles and folds"),
    ):
        with pytest.raises(ValueError, match=finding):
            make_splits(cases.assign(**{column: values}), 5, 0, True, [0])


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        ({"folds": 7}, "7 folds need at least 7 patients, but there are 6"),
        ({"folds": 2}, "training, validation and test need three folds"),
        ({"splits": [0, 3]}, r"`splits`: contains \[3\], but 3 folds"),
        ({"splits": [0, 0]}, "none twice"),
        ({"splits": []}, "at least one split"),
    ],
)
def test_make_splits_refuses_impossible_settings(arguments, finding):
    with pytest.raises(ValueError, match=finding):
        make_splits(cohort(A=6), **{"folds": 3, "seed": 0, "stratify": True, "splits": [0]} | arguments)


def test_make_splits_refuses_duplicate_cases():
    with pytest.raises(ValueError, match="A-0 occur more than once"):
        make_splits(pd.concat([cohort(A=6), cohort(A=1)]), 3, 0, True, [0])


def test_check_no_leakage_finds_repeated_and_missing_roles():
    table = make_splits(cohort(A=9), 3, 0, True, [0, 1])
    check_no_leakage(table)
    leaked = table[(table["split"] == 1) & (table["role"] == "test")].iloc[:1].assign(role="train")
    with pytest.raises(ValueError, match=rf"split 1: cases with more than one role: {leaked['case'].item()} \(test, train\)"):
        check_no_leakage(pd.concat([table, leaked]))
    with pytest.raises(ValueError, match="split 0: cases without a role"):
        check_no_leakage(table.iloc[1:])
    with pytest.raises(ValueError, match="more than one role"):
        check_no_leakage(pd.concat([table, table.iloc[:1]]))


@pytest.mark.parametrize(
    ("stratify", "folds"),
    [(True, "1203324104300142"), (False, "4402020131314230")],
)
def test_make_splits_ignores_patients_with_one_case_each(stratify, folds):
    """The assignment of seed 0 by the version before patients were known: nobody's networks may see other cases than before."""
    cases = cohort(Utrecht=7, Singapore=5, GE3T=4)
    for table in (cases, cases.assign(patient=""), cases.assign(patient=cases["case"])):
        made = make_splits(table, 5, 0, stratify, [0]).sort_values("case")
        assert "".join(map(str, made["fold"])) == folds
        assert made["patient"].tolist() == made["case"].tolist()


def longitudinal(patients: int, sessions: int) -> pd.DataFrame:
    rows = [(f"sub-{p:02d}_ses-{s}", f"sub-{p:02d}", "AB"[p % 2]) for p in range(patients) for s in range(1 + p % sessions)]
    return pd.DataFrame(rows, columns=["case", "patient", "site"])


@pytest.mark.parametrize("stratify", [True, False])
def test_make_splits_keeps_patients_together(stratify):
    cases = longitudinal(17, 3)
    table = make_splits(cases.sample(frac=1, random_state=0), 5, 2, stratify, range(5))
    assert len(table) == 5 * len(cases)
    assert table.groupby("patient")["fold"].nunique().eq(1).all()
    assert table.groupby(["split", "patient"])["role"].nunique().eq(1).all()
    sizes = table.groupby("fold")["patient"].nunique()
    assert sizes.max() - sizes.min() <= 1
    with pytest.raises(ValueError, match="18 folds need at least 18 patients, but there are 17"):
        make_splits(cases, 18, 0, stratify, [0])


def test_make_splits_refuses_folds_and_roles_that_split_a_patient():
    cases = longitudinal(6, 2)  # sub-01, sub-03 and sub-05 have two sessions
    folds = cases.assign(fold=[0, 0, 0, 1, 1, 1, 2, 1, 2])
    with pytest.raises(ValueError, match=r"split 1: patients with more than one role") as caught:
        make_splits(folds, 3, 0, True, [1])
    assert ": sub-05 (sub-05_ses-0 test, sub-05_ses-1 validation). Give all cases of a patient the same" in str(caught.value)
    folds.loc[7, "fold"] = 2
    assert len(make_splits(folds, 3, 0, True, range(3))) == 27
    roles = cases.assign(role=["train", "train", "test", *["train"] * 6])
    with pytest.raises(ValueError, match=r"split 0: .*: sub-01 \(sub-01_ses-0 train, sub-01_ses-1 test\)\. Give"):
        make_splits(roles, 3, 0, True, [0])


def test_make_test_only_splits_tests_every_case_in_every_split(script, tmp_path):
    cases = longitudinal(4, 2).assign(role="train", fold=pd.array([0] * 6, "Int64"))
    table = make_test_only_splits(cases, range(3))
    assert list(table.columns) == list(make_splits(cohort(A=3), 3, 0, True, [0]).columns)
    assert table["role"].eq("test").all()
    assert table["fold"].isna().all()
    assert table.groupby("split")["case"].agg(list).tolist() == [sorted(cases["case"])] * 3
    folds = {"count": 3, "seed": 0, "stratify_by_site": True}
    write_table(cases.drop(columns="fold").assign(fold="", role=""), tmp_path / "cases.csv")
    script("split")(tmp_path / "cases.csv", tmp_path / "splits.csv", folds, no_training=True)
    assert cases_by_role(tmp_path / "splits.csv", 2) == {"test": sorted(cases["case"])}
    script("split")(tmp_path / "cases.csv", tmp_path / "splits.csv", folds, no_training=False)
    assert cases_by_role(tmp_path / "splits.csv", 2).keys() == {"train", "validation", "test"}
