import math

import pytest

from lemevit_cli.training.schedule import rate_factor


def test_the_rate_rises_to_its_peak_and_falls_as_a_cosine():
    assert rate_factor(0.0, warmup=0.1) == 0.01
    assert rate_factor(0.05, warmup=0.1) == pytest.approx(0.5)
    assert rate_factor(0.1, warmup=0.1) == pytest.approx(1.0)
    assert rate_factor(0.55, warmup=0.1) == pytest.approx(0.01 + 0.99 * 0.5)
    assert rate_factor(1.0, warmup=0.1) == pytest.approx(0.01)


def test_the_rate_stays_at_its_end_and_needs_no_warmup():
    assert rate_factor(1.7, warmup=0.1) == pytest.approx(0.01)
    assert rate_factor(0.0, warmup=0.0) == pytest.approx(1.0)
    assert not math.isnan(rate_factor(0.0, warmup=0.0))
