"""One form: 200 random spellings of a family give one kernel digest, at least 95 in 100 of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from spellings.families import FAMILIES
from spellings.forms import form

COUNT = 200


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_spellings_have_one_form(family: str) -> None:
    forms = Counter(form(family, seed) for seed in range(COUNT))
    share = forms.most_common(1)[0][1] / COUNT
    target = os.environ.get("TREADLE_TEST_JSON")
    if target:
        path = Path(target)
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(
            json.dumps(found | {family: {"share": share, "forms": len(forms), "spellings": COUNT}}, indent=1)
        )
    assert share >= 0.95, forms.most_common(5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_spellings_have_one_form(family: str) -> None:
    assert len({form(family, seed) for seed in range(1000, 1006)}) == 1


def test_different_functions_have_different_forms() -> None:
    assert len({form(family, 0) for family in FAMILIES}) == len(FAMILIES)
