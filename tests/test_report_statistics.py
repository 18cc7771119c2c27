"""The statistics against cases worked by hand, and against scipy's own t-test."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from bench.report.statistics import LEVEL, Difference, estimate, holm, paired, rank, seeds_needed


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_half_width_of_five_values_is_the_one_worked_by_hand():
    # s = √(10/4), t(0.975, 4) = 2.7764
    value = estimate([1, 2, 3, 4, 5])
    assert (value.mean, value.n) == (3, 5)
    assert value.half_width == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), abs=1e-5)


def test_one_value_has_no_interval_and_none_is_refused():
    assert estimate([2.5]).half_width is None
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_equal_values_have_an_interval_of_zero_whatever_their_rounding():
    assert estimate([0.1 + 0.2, 0.3, 0.3]).half_width == 0


def test_the_paired_test_worked_by_hand():
    # differences 2, 1, 3: mean 2, s = 1, t = 2√3; with 2 degrees of freedom p = 1 − t/√(2 + t²)
    d = paired(by_seed(3, 5, 7), by_seed(1, 4, 4))
    assert d is not None
    assert (d.mean, d.n, d.sd) == (2, 3, pytest.approx(1))
    assert d.p == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(14))
    assert d.half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)


def test_the_sign_of_a_difference_is_a_less_b():
    a, b = paired(by_seed(1, 2, 4), by_seed(2, 4, 5)), paired(by_seed(2, 4, 5), by_seed(1, 2, 4))
    assert a is not None
    assert b is not None
    assert a.mean == -b.mean < 0
    assert a.p == b.p


THOUSANDTHS = st.integers(-99_000, 99_000).map(lambda n: n / 1000)  # beside 1e-308 scipy itself overflows


@given(st.lists(st.tuples(THOUSANDTHS, THOUSANDTHS), min_size=3, max_size=9))
def test_the_paired_test_is_scipys(pairs: list[tuple[float, float]]):
    differences = [x - y for x, y in pairs]
    d = paired(by_seed(*(x for x, _ in pairs)), by_seed(*(y for _, y in pairs)))
    assert d is not None
    if max(differences) - min(differences) > 1e-3:
        assert d.p == pytest.approx(float(ttest_rel(*zip(*pairs, strict=True)).pvalue), abs=1e-9)


def test_pairs_are_of_shared_seeds_only():
    d = paired({0: 1.0, 1: 5.0, 7: 9.0}, {1: 4.0, 7: 7.0, 8: 0.0})
    assert d is not None
    assert (d.n, d.mean) == (2, 1.5)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_no_p_value_below_three_seeds():
    d = paired(by_seed(1, 2), by_seed(3, 9))
    assert d is not None
    assert d.p is None
    assert d.half_width is not None
    assert paired({0: 1.0}, {0: 3.0}) == Difference(-2, None, 1, None, None)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_without_spread_equal_is_equal_and_unlike_is_unlike(shift: float, p: float):
    d = paired(by_seed(1.1, 2.2, 3.3), by_seed(*(v - shift for v in (1.1, 2.2, 3.3))))
    assert d is not None
    assert (d.sd, d.p) == (0, p)


def test_holm_worked_by_hand():
    # sorted 0.005·4, 0.01·3, 0.03·2, 0.04·1 lifted to 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_raw_p_and_bonferronis_and_keeps_the_order(p: list[float]):
    adjusted = holm(p)
    assert all(
        raw <= a + 1e-12 and a <= min(1, len(p) * raw) + 1e-12 for raw, a in zip(p, adjusted, strict=True)
    )
    in_order = [a for _, a in sorted(zip(p, adjusted, strict=True))]
    assert in_order == sorted(in_order)


def test_seeds_needed_is_the_first_n_that_is_significant():
    # difference = sd: t = √n; t(0.975, 6) = 2.447 < √7, t(0.975, 5) = 2.571 > √6
    assert seeds_needed(1, 1) == 7
    assert seeds_needed(-1, 1) == 7
    assert seeds_needed(1, 1, LEVEL / 10) > 7
    assert seeds_needed(0.001, 1) is None
    assert seeds_needed(0, 0) is None


LOW, HIGH = by_seed(1.0, 1.1, 0.9, 1.0), by_seed(5.1, 5.0, 4.9, 5.2)


@pytest.mark.parametrize(("direction", "best"), [("higher", "high"), ("lower", "low")])
def test_best_follows_the_direction(direction: str, best: str):
    order = rank({"low": LOW, "high": HIGH}, direction)
    assert (order.best, order.ties, order.advice) == (best, (), "")


def test_no_direction_no_ranking_and_one_entry_no_contest():
    assert rank({"low": LOW, "high": HIGH}, None).leader is None
    assert rank({"low": LOW}, "lower").best is None


def test_a_tie_is_marked_with_the_seeds_that_are_missing():
    order = rank(
        {"a": by_seed(1.0, 2.0, 3.0), "b": by_seed(1.5, 1.7, 2.5), "far": by_seed(90, 91, 92)}, "lower"
    )
    assert (order.best, order.ties) == ("b", ("a",))
    assert order.advice.startswith(("too few seeds: add ", "not to be told apart"))


def test_equal_columns_tie_and_no_number_of_seeds_is_promised():
    order = rank({"a": LOW, "b": dict(LOW)}, "higher")
    assert order.ties
    assert order.advice == "not to be told apart by 100 seeds"


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds_name_no_winner(n: int):
    order = rank({"low": by_seed(*[1.0] * n), "high": by_seed(*[5.0] * n)}, "higher")
    assert (order.leader, order.best) == ("high", None)
    assert order.advice == "too few seeds: add at least 2"


def test_the_correction_is_over_the_column():
    # p = 0.0742 against one rival at most: a rival alone is judged at 5 %, among many at less
    near = by_seed(1.00, 1.01, 0.985, 1.02)
    leader = by_seed(1.03, 1.05, 1.01, 1.06)
    crowd = {f"same {i}": dict(near) for i in range(40)}
    assert rank({"leader": leader, "near": near}, "higher").ties == ()
    assert len(rank({"leader": leader, **crowd}, "higher").ties) == 40


def test_a_rival_with_too_few_shared_seeds_is_not_beaten():
    order = rank({"best": HIGH, "new": {0: 1.0}}, "higher")
    assert (order.best, order.ties, order.untested, order.beaten) == ("best", (), ("new",), ())
    assert order.advice == "too few seeds: add at least 2"
