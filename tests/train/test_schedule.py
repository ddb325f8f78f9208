"""The learning rate at every boundary of section 4.2."""

import pytest

from degradation.train.step import learning_rate, warmup_ends

MILESTONES = (32_000, 48_000)
PLAIN = {0: 0.1, 399: 0.1, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}


@pytest.mark.parametrize(("iteration", "rate"), PLAIN.items())
def test_rate_without_warmup(iteration: int, rate: float) -> None:
    assert learning_rate(iteration, 0.1, MILESTONES) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("iteration", "rate"), ({**PLAIN, 0: 0.01, 399: 0.01}).items())
def test_rate_with_a_warmup_that_ended_at_400(iteration: int, rate: float) -> None:
    assert learning_rate(iteration, 0.1, MILESTONES, 0.1, 0.01, 400) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("iteration", "rate"), PLAIN.items())
def test_rate_with_a_warmup_that_never_ended(iteration: int, rate: float) -> None:
    assert learning_rate(iteration, 0.1, MILESTONES, 0.1, 0.01, None) == pytest.approx(rate / 10, rel=1e-12)


def test_a_warmup_that_ended_at_once_is_none() -> None:
    assert [learning_rate(i, 0.1, MILESTONES, 0.1, 0.01, 0) for i in PLAIN] == [
        learning_rate(i, 0.1, MILESTONES) for i in PLAIN
    ]


@pytest.mark.parametrize(("errors", "ends"), [(10_239, True), (10_240, False), (10_241, False), (0, True)])
def test_warmup_ends_strictly_below_its_error(errors: int, ends: bool) -> None:
    assert warmup_ends(errors, 12_800, 80.0) is ends
