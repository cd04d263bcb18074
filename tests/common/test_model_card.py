import pytest

from common.model_card import model_card


@pytest.mark.parametrize("key", ["validation", "held_out"])  # the second: models of an older version
def test_model_card_tells_scores(key):
    card = model_card("mine", {"prior": {"width": 8, key: {"bits_per_code": 2.5}, "data_key": "secret"}})
    assert card.startswith("---\nlibrary_name: smalti\n") and "| width | 8 |" in card
    assert "| bits_per_code | 2.5 |" in card
    assert "secret" not in card
    assert f"| {key} |" not in card
