"""The learning rate at every boundary of section 4.2."""

from dataclasses import replace

import pytest

from degradation.config import Architecture
from degradation.net.network import Network
from degradation.train.step import DegradationModule, warmup_ends
from tests.train.test_step import PROTOCOL, make_machine

PLAIN = {0: 0.1, 399: 0.1, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}


def rates(warmup_lr: float | None = None, warmup_ended_at: int | None = None) -> dict[int, float]:
    """At every iteration of PLAIN."""
    protocol, network = replace(PROTOCOL, lr=0.1, milestones=(32_000, 48_000)), Network(Architecture.paper(8, "A"))
    module = DegradationModule(network, None, protocol, make_machine(), warmup_lr)  # type: ignore[arg-type]
    module.warmup_ended_at = warmup_ended_at
    return {iteration: module.lr_at(iteration) for iteration in PLAIN}


def test_rate_without_warmup() -> None:
    assert rates() == pytest.approx(PLAIN, rel=1e-12)


def test_rate_with_a_warmup_that_ended_at_400() -> None:
    assert rates(0.01, 400) == pytest.approx({**PLAIN, 0: 0.01, 399: 0.01}, rel=1e-12)


def test_rate_with_a_warmup_that_never_ended() -> None:
    assert rates(0.01) == pytest.approx({iteration: rate / 10 for iteration, rate in PLAIN.items()}, rel=1e-12)


def test_a_warmup_that_ended_at_once_is_none() -> None:
    assert rates(0.01, 0) == rates()


def test_a_ramp_rises_linearly_and_ends() -> None:
    protocol = replace(PROTOCOL, lr=0.1, milestones=(), iterations=1000, ramp=0.05)
    module = DegradationModule(Network(Architecture.paper(8, "A")), None, protocol, make_machine())  # type: ignore[arg-type]
    assert [module.lr_at(n) for n in (0, 25, 50, 999)] == pytest.approx([1e-5, 0.1 * (1e-4 + 0.9999 / 2), 0.1, 0.1])


@pytest.mark.parametrize(("errors", "ends"), [(10_239, True), (10_240, False), (10_241, False), (0, True)])
def test_warmup_ends_strictly_below_its_error(errors: int, ends: bool) -> None:
    assert warmup_ends(errors, 12_800, 80.0) is ends
