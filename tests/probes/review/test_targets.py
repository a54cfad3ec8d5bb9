"""D33, D34: the size of a study, and ordered grades."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from probes.cohort.truth import class_truth
from probes.evaluation.certainty.plan import Study, area_width, plan_area
from probes.evaluation.scoring import Resampling, score
from probes.fitting.cumulative import fit_cumulative, log_probabilities
from tests.commands import call
from tests.probes.cohort import make_cohort
from tests.probes.test_rows import probe


@pytest.mark.parametrize(("images", "likeness", "prevalence"), [(1, 0.0, 0.2), (4, 0.5, 0.3)])
def test_a_planned_study_has_about_the_wished_width(images, likeness, prevalence):
    study = Study(prevalence, images, likeness)
    plan = plan_area(0.85, 0.12, study)
    assert plan.expected_width <= 0.12 < area_width(0.85, plan.patients - 1, study)
    assert plan.all_patients == -(-plan.patients * 5 // 1)
    widths = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(plan.patients), images)
        ill = (rng.random(plan.patients) < prevalence).astype(int)[owner]
        noise = np.sqrt(likeness) * rng.standard_normal(plan.patients)[owner]
        s = 1.4657 * ill + noise + np.sqrt(1 - likeness) * rng.standard_normal(len(owner))  # √2 Φ⁻¹(.85)
        p = expit(s)
        found = score(np.stack([1 - p, p], 1), class_truth(ill, ("no", "yes")), owner, Resampling(200, seed))[0]
        area = found.metrics["auc_macro"]
        widths.append(area.high - area.low)
    assert np.mean(widths) == pytest.approx(0.12, rel=0.15)


def test_the_plan_of_the_command_is_the_golden_and_tells_what_it_needs():
    done = call("probes", "plan", "--auc", 0.85, "--prevalence", 0.2, "--specificity", 0.9, "--json").json
    assert [(p["metric"], p["patients"], p["all_patients"]) for p in done] == [
        ("auc", 356, 1780), ("specificity", 173, 865),
    ]  # fmt: skip
    wide, narrow = (
        call("probes", "plan", "--auc", 0.85, "--prevalence", 0.2, "--width", w, "--json").json[0]["patients"]
        for w in (0.2, 0.05)
    )
    assert wide < 356 < narrow
    assert "nothing to plan" in call("probes", "plan", "--prevalence", 0.2).err


def test_the_cumulative_link_is_the_proportional_odds_model_of_statsmodels():
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3))
    z = x @ [1.0, -0.5, 0.2] + rng.logistic(size=400)
    codes = np.searchsorted([-1.0, 0.5, 2.0], z)
    w, cuts, converged = fit_cumulative(x, codes, np.ones(400), 1e8)
    reference = OrderedModel(codes, x, distr="logit").fit(method="bfgs", disp=False, gtol=1e-8)
    assert converged
    assert w == pytest.approx(reference.params[:3], abs=1e-4)
    assert np.exp(log_probabilities(x @ w, cuts)) == pytest.approx(reference.predict(x), abs=1e-4)


def test_a_penalty_shrinks_the_direction_and_far_scores_keep_finite_probabilities():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((100, 5))
    codes = np.repeat([0, 1, 2, 3], 25)
    lengths = [np.linalg.norm(fit_cumulative(x, codes, np.ones(100), c)[0]) for c in (1e-4, 1e-2, 1.0)]
    assert lengths[0] < lengths[1] < lengths[2]
    far = log_probabilities(np.array([-900.0, 0.0, 900.0]), np.array([-1.0, 1.0]))
    assert np.isfinite(far).all()
    assert np.exp(far).sum(1) == pytest.approx(np.ones(3))


def test_an_ordinal_probe_is_stored_applied_and_rerun(tmp_path):
    db = make_cohort(tmp_path / "db", patients=80)
    ordered = ("--label", "grade", "--ordinal", "--group", "patient", "--link", "cumulative")
    found = probe("linear", db, *ordered, "--out", tmp_path / "out")
    assert found["test"]["metrics"]["kappa_quadratic"]["value"] > 0.5
    assert found["request"]["probe"] == "cumulative"
    assert call("probes", "rerun", tmp_path / "out", "--json").json["reproduced"]
    rows = call("probes", "predict", tmp_path / "out", db, "--json").json["rows"]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    assert (
        "--ordinal" in call("probes", "linear", db, "--label", "ill", "--group", "patient", "--link", "cumulative").err
    )
