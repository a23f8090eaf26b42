"""The planted bugs of the model. ``make faults PLANT=…`` finds them."""

from __future__ import annotations

import pytest

from joblane.record.sql_functions import FUNCTIONS
from tests.faults.model.plants import PLANTS, TEXTS


@pytest.mark.parametrize("plant", PLANTS)
def test_every_planted_bug_of_the_model_has_its_place_in_the_code(plant: str) -> None:
    function, old, _ = TEXTS[plant]
    assert FUNCTIONS[function].count(old) == 1
