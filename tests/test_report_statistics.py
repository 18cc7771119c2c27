"""The statistics against cases worked by hand and scipy's own tests, and under shift, scale and order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.report.inference import dunnett, mcb, rank
from bench.report.statistics import (
    LEVEL,
    Effect,
    average,
    backward,
    equivalence,
    estimate,
    forward,
    holm,
    seeds_needed,
)


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def effect(a, b, scale="linear", *, twins: bool = False):
    return average([(by_seed(*a), by_seed(*b))], scale, twins=twins)


def column(*rows) -> dict[str, list[dict[int, float]]]:
    return {chr(97 + i): [by_seed(*row)] for i, row in enumerate(rows)}


# Intervals


def test_the_half_width_of_five_values_is_the_one_worked_by_hand():
    # s = √(10/4), t(0.975, 4) = 2.7764
    value = estimate([1, 2, 3, 4, 5])
    assert (value.mean, value.n) == (3, 5)
    assert value.half_width == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), abs=1e-5)
    assert value.bars == pytest.approx((value.half_width, value.half_width))


def test_one_value_has_no_interval_and_none_is_refused():
    assert estimate([2.5]).half_width is None
    assert estimate([2.5]).low is None
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_equal_values_have_an_interval_of_zero_whatever_their_rounding():
    assert estimate([0.1 + 0.2, 0.3, 0.3]).half_width == 0


@pytest.mark.parametrize("scale", ["log", "logit"])
def test_an_interval_of_another_scale_is_the_linear_one_of_the_values_there(scale):
    values = [0.11, 0.35, 0.2]
    there, here = estimate([forward(v, scale) for v in values]), estimate(values, scale)
    for end, found in zip((there.mean, there.low, there.high), (here.mean, here.low, here.high), strict=True):
        assert found == pytest.approx(backward(end, scale))
    assert here.bars[1] > here.bars[0] > 0


def test_values_at_a_bound_count_as_the_nearest_inside():
    assert forward(0.0, "logit") == forward(5e-5, "logit") == pytest.approx(-forward(1.0, "logit"))
    assert forward(-0.1, "log") == forward(0.0, "log") == pytest.approx(math.log(1e-9))


# Two variants


THOUSANDTHS = st.integers(-99_000, 99_000).map(lambda n: n / 1000)  # beside 1e-308 scipy itself overflows
SAMPLES = st.lists(THOUSANDTHS, min_size=3, max_size=6).filter(lambda x: max(x) - min(x) > 0.01)


@settings(max_examples=30)
@given(SAMPLES, SAMPLES)
def test_two_variants_are_compared_by_scipys_welch(a: list[float], b: list[float]):
    found, due = effect(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(float(due.pvalue), rel=1e-6, abs=1e-12)
    interval = due.confidence_interval(0.95)
    assert found.size.low == pytest.approx(interval.low)
    assert found.size.high == pytest.approx(interval.high)


@settings(max_examples=30)
@given(st.lists(st.tuples(THOUSANDTHS, THOUSANDTHS), min_size=3, max_size=9))
def test_near_twins_are_compared_by_scipys_paired_t(pairs: list[tuple[float, float]]):
    a, b = zip(*pairs, strict=True)
    differences = [x - y for x, y in pairs]
    if max(differences) - min(differences) > 1e-3:
        assert effect(a, b, twins=True).p == pytest.approx(float(stats.ttest_rel(a, b).pvalue), abs=1e-9)


def test_twins_are_paired_over_shared_seeds_only():
    found = average([({0: 1.0, 1: 5.0, 7: 9.0}, {1: 4.0, 7: 7.0, 8: 0.0})], "linear", twins=True)
    assert (found.n, found.value) == (2, 1.5)
    assert average([({0: 1.0}, {1: 1.0})], "linear", twins=True).n == 0


def test_no_p_value_below_three_seeds():
    assert effect((1, 2), (3, 9, 4)).p is None
    assert effect((1, 2), (3, 9, 4)).half_width is not None
    assert effect((1,), (3, 9, 4)).half_width is None


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_without_spread_equal_is_equal_and_unlike_is_unlike(shift: float, p: float):
    values = (1.1, 2.2, 3.3)
    assert effect(values, [v - shift for v in values], twins=True).p == p


def test_on_the_logarithm_a_difference_is_a_ratio_that_no_unit_changes():
    a, b = (249.0, 603.0, 373.0), (51.0, 65.0, 55.0)
    found, scaled = effect(a, b, "log"), effect([1000 * v for v in a], [1000 * v for v in b], "log")
    assert scaled.p == pytest.approx(found.p)
    assert found.size.mean == pytest.approx(math.prod(a) ** (1 / 3) / math.prod(b) ** (1 / 3))
    assert effect(b, a, "log").size.mean == pytest.approx(1 / found.size.mean)


def test_equivalence_is_scipys_two_one_sided_tests():
    a, b, margin = (1.0, 1.3, 1.1, 1.4), (1.2, 1.1, 1.6, 1.25), 0.4
    one = stats.ttest_ind([x + margin for x in a], b, equal_var=False, alternative="greater").pvalue
    other = stats.ttest_ind([x - margin for x in a], b, equal_var=False, alternative="less").pvalue
    assert equivalence(effect(a, b), margin) == pytest.approx(max(one, other))
    assert equivalence(effect((1, 2), (1, 2)), margin) is None


# Averages over settings


def test_the_error_of_an_average_is_that_of_the_seeds_inside_the_settings():
    """Settings whose means agree by luck, with seeds that scatter: s² = 1 in four cells of three."""
    cells = [(by_seed(9, 10, 11), by_seed(6, 7, 8)), (by_seed(19, 20, 21), by_seed(16, 17, 18))]
    found = average(cells, "linear")
    assert found.value == 3
    assert found.error == pytest.approx(math.sqrt(4 / 3) / 2)
    assert found.df == pytest.approx(8)  # equal spreads: the sum of the cells'


def test_unequal_spreads_leave_fewer_degrees_of_freedom():
    cells = [(by_seed(0, 100, 200), by_seed(6, 7, 8)), (by_seed(19, 20, 21), by_seed(16, 17, 18))]
    found = average(cells, "linear")
    assert found.df == pytest.approx(2, abs=0.01)


# Families


def test_holm_worked_by_hand():
    # sorted 0.005·4, 0.01·3, 0.03·2, 0.04·1 lifted to 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]) == []


@pytest.mark.parametrize(("k", "n"), [(2, 3), (4, 3), (9, 5)])
def test_with_equal_errors_the_test_is_scipys_dunnett(k: int, n: int):
    draws = np.random.default_rng(k).normal(size=(k, n))
    draws[0] -= 1.5
    due = stats.dunnett(*draws[1:], control=draws[0], rng=1)
    p = [dunnett(abs(float(t)), np.full(k - 1, math.sqrt(0.5)), k * (n - 1)) for t in due.statistic]
    assert p == pytest.approx(due.pvalue, abs=2e-3)  # scipy integrates by simulation


def test_two_groups_are_left_with_welch():
    a, b = (1.0, 2.0, 4.0), (5.0, 5.5, 9.0)
    groups = [(float(np.mean(x)), float(stats.sem(x)), 2.0) for x in (a, b)]
    assert mcb(groups) == pytest.approx([stats.ttest_ind(a, b, equal_var=False).pvalue, 1])


LOW, HIGH = (1.0, 1.1, 0.9, 1.0, 1.05), (5.1, 5.0, 4.9, 5.2, 5.1)


@pytest.mark.parametrize(("direction", "best"), [("higher", "b"), ("lower", "a")])
def test_best_follows_the_direction(direction: str, best: str):
    order = rank(column(LOW, HIGH), direction)
    assert (order.best, order.ties, order.advice, order.provisional) == (best, (), "", False)
    assert rank(column(LOW[:4], HIGH), direction).provisional  # fewer than five seeds
    assert rank(column(LOW), direction).best is rank(column(LOW, HIGH), None).leader is None  # no contest


def test_an_order_does_not_depend_on_places_units_or_origin():
    rows = np.random.default_rng(5).normal(size=(7, 4)) + np.arange(7)[:, None]
    order = rank(column(*rows), "higher")
    assert order.ties
    assert order.beaten
    for changed in (rank(column(*(2.5 * rows - 7)), "higher"), rank(column(*-rows), "lower")):
        assert (changed.best, changed.ties, changed.beaten) == (order.best, order.ties, order.beaten)
    shuffled = dict(reversed(column(*rows).items()))
    assert rank(shuffled, "higher").beaten == order.beaten


def test_equal_columns_tie_and_no_number_of_seeds_is_promised():
    order = rank(column(LOW, LOW), "higher")
    assert order.ties
    assert order.advice == "more than 100 seeds would be needed"


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds_name_no_winner(n: int):
    order = rank(column([1.0] * n, [5.0] * n), "higher")
    assert (order.leader, order.best) == ("b", None)
    assert order.advice == "too few seeds: add at least 2"


def test_a_rival_with_too_few_seeds_is_not_beaten():
    order = rank(column(HIGH, (1.0,)), "higher")
    assert (order.best, order.ties, order.untested, order.beaten) == ("a", (), ("b",), ())


def test_the_family_is_the_column():
    """A rival that one test would exclude is kept among twenty others that are as near."""
    near, leader = (1.00, 1.01, 0.985, 1.02), (1.04, 1.05, 1.01, 1.06)
    assert rank(column(leader, near), "higher").ties == ()
    crowd = np.random.default_rng(0).normal(1.0, 0.015, size=(20, 4))
    assert "b" in rank(column(leader, near, *crowd), "higher").ties


def test_a_baseline_is_a_one_sample_test():
    order = rank(column(LOW, HIGH), "higher")
    due = stats.ttest_1samp(LOW, 0.9).pvalue
    assert (due < LEVEL) == ("a" in order.apart_from({"a": 0.9}))
    assert order.apart_from({"a": float(np.mean(LOW)), "b": 4.0}).keys() == {"b"}


def test_add_k_seeds_means_a_power_of_four_in_five():
    """The n of a two-sample t with one standard deviation between: 17 a group, of every textbook."""
    pilot = effect((0, 1, 2), (1, 2, 3))  # s = 1 in both
    assert seeds_needed(pilot) == 17
    assert seeds_needed(pilot, LEVEL / 10) > 17
    assert seeds_needed(effect((0, 1, 2), (0.001, 1.001, 2.001))) is None


# Simulated, with room for the binomial error of so many draws (four standard errors)


@pytest.mark.parametrize("n", [3, 5])
def test_intervals_cover_as_often_as_they_say(n: int):
    draws = np.random.default_rng(n).normal(size=(4000, n))
    covered = [(e := estimate(list(row))).low <= 0 <= e.high for row in draws]
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_no_variant_is_better_than_every_other_where_all_are_equal():
    draws = np.random.default_rng(0).normal(size=(150, 6, 3))
    alone = [not rank(column(*rows), "higher").ties for rows in draws]
    assert np.mean(alone) <= 0.05


# Seeds that decide


def spread_of(value: float, sd: float, df: float = 2.0) -> Effect:
    """An effect of three paired differences with this mean and spread."""
    return Effect(value, sd / math.sqrt(3), df, 3, 0.5, "linear", "paired by seed", sd**2, 1.0)


@pytest.mark.parametrize(("sd", "margin", "seeds"), [(1.0, 0.5, 36), (1.0, 1.0, 11), (2.0, 1.0, 36)])
def test_seeds_for_equality_are_those_of_the_tables(sd, margin, seeds):
    """Paired, no difference, 80 %: (z.95 + z.90)²·(s/margin)² = 34.3 and 8.6; Student's t adds a little."""
    found = seeds_needed(spread_of(0.0, sd), margin=margin)
    assert found is not None
    assert abs(found - seeds) <= 1


def test_so_many_seeds_decide_in_four_of_five_cases():
    rng = np.random.default_rng(0)
    sd, margin = 1.0, 1.0
    n = seeds_needed(spread_of(0.2, sd), margin=margin)
    assert n is not None

    def power(seeds: int) -> float:
        x = rng.normal(0.2, sd, (20_000, seeds))
        reach = stats.t.ppf(0.95, seeds - 1) * x.std(1, ddof=1) / math.sqrt(seeds)
        return float(np.mean(np.abs(x.mean(1)) + reach < margin))

    assert power(n) > 0.79
    assert power(n - 1) < 0.81


def test_a_difference_beyond_the_margin_or_without_one_needs_what_shows_it():
    for value, margin in ((3.0, 1.0), (0.4, None)):
        each = spread_of(value, 1.0)
        assert seeds_needed(each, margin=margin) == seeds_needed(each)
    assert seeds_needed(spread_of(0.0, 1.0)) is None
    assert seeds_needed(spread_of(0.0, 9.0), margin=1.0) is None
