"""Components that are broken in one way each: the right checks of the kit fail, and no other, and say what to write."""

from __future__ import annotations

import pytest
from broken import BROKEN, Breakage, failing
from broken.partitioners import Good

from fewcore import Component, Offer
from fewcore.errors import PluginError
from fewcore.testing import ConformanceError, Setup, checks_for


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda breakage: f"{breakage.offer.kind}-{breakage.name}")
def test_the_kit_says_what_is_wrong(breakage: Breakage) -> None:
    try:
        breakage.offer.load()
    except PluginError:
        with pytest.raises(ConformanceError) as caught:
            checks_for(breakage.offer.kind)[0](breakage.offer, Setup())
        found = {checks_for(breakage.offer.kind)[0].__name__: str(caught.value)}
    else:
        found = failing(breakage.offer)
    assert found[breakage.check].startswith(f"{breakage.offer.kind} 'fewcore-x:thing': found ")
    assert breakage.message in found[breakage.check]
    if breakage.also is not None:
        assert set(found) == {breakage.check, *breakage.also}


def test_there_are_twenty_at_least_and_what_they_are_made_from_is_whole() -> None:
    assert len({(breakage.offer.component.target, breakage.check) for breakage in BROKEN}) >= 20
    whole = Component("thing", f"{Good.__module__}:{Good.__name__}", "a thing")
    assert not failing(Offer("partitioner", whole, "fewcore-x", "1"))
