"""Cost of sampling: shared and per member (below 1 s)."""

import numpy as np
import pandas as pd

from pd_ddpm.inference.cost import Cost


def test_total_cost_counts_a_shared_presegmentation_once() -> None:
    """PD-DDPM at T' = 300 with five members: 1500 reverse steps and one pre-segmentation."""
    chain = Cost(evaluations_per_member=300, seconds_shared=0.5, seconds_per_member=10.0)
    presegmentation = Cost(evaluations_shared=1, seconds_shared=0.2)
    whole = (chain + presegmentation).total(5)
    assert whole == {"network_evaluations": 1501, "seconds": 50.7}


def test_cost_from_record_restores_a_cost_from_csv(tmp_path) -> None:
    cost = Cost(1, 300, 0.25, 1.5)
    pd.DataFrame([{"case": "a", **vars(cost), "stamp": "x"}]).to_csv(tmp_path / "predictions.csv", index=False)
    for _, record in pd.read_csv(tmp_path / "predictions.csv").iterrows():
        assert Cost.from_record(record) == cost
        assert isinstance(Cost.from_record(record).evaluations_shared, int)


def test_cost_that_is_not_known_stays_so_through_csv(tmp_path) -> None:
    pd.DataFrame([Cost.unknown().to_record()]).to_csv(tmp_path / "predictions.csv", index=False)
    cost = Cost.from_record(pd.read_csv(tmp_path / "predictions.csv").iloc[0])
    assert not cost.is_known
    assert np.isnan(list((cost + Cost(0, 1, 0.1, 0.2)).total(5).values())).all()
