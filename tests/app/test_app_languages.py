"""Which models translate between two languages: one, or two that meet in a third."""

from __future__ import annotations

import pytest

from app.languages import LanguagePairs
from app.translation import LanguagePair, UnsupportedPairError


def pairs(*names: str, pivot: bool = True) -> LanguagePairs:
    """Models named after their languages: ``de-en`` from German to English."""
    return LanguagePairs([LanguagePair(*name.split("/"), name) for name in names], pivot=pivot)


def route(known: LanguagePairs, source: str, target: str) -> list[str]:
    return [pair.model for pair in known.route(source, target)]


def test_a_pair_of_its_own_is_taken_before_a_chain() -> None:
    known = pairs("de/en", "en/fr", "de/fr")
    assert route(known, "de", "fr") == ["de/fr"]
    assert known.pivoted == ()


def test_two_pairs_that_meet_make_up_for_a_missing_one() -> None:
    known = pairs("de/en", "en/fr")
    assert route(known, "de", "fr") == ["de/en", "en/fr"]
    (chain,) = known.pivoted
    assert (str(chain), chain.source, chain.pivot, chain.target) == ("de-fr", "de", "en", "fr")


def test_a_chain_has_two_pairs_and_never_three() -> None:
    with pytest.raises(UnsupportedPairError, match="the pairs there are: de-en, en-fr, fr-it, de-fr, en-it"):
        pairs("de/en", "en/fr", "fr/it").route("de", "it")


def test_no_chain_leads_back_to_its_own_language() -> None:
    assert pairs("de/en", "en/de", "en/de-CH").pivoted == ()


def test_of_several_chains_the_order_of_the_models_decides() -> None:
    assert route(pairs("de/nl", "de/en", "en/fr", "nl/fr"), "de", "fr") == ["de/nl", "nl/fr"]


def test_a_narrower_tag_meets_a_broader_one() -> None:
    known = pairs("de/en-GB", "en/fr")
    assert route(known, "de-AT", "fr-CH") == ["de/en-GB", "en/fr"]
    with pytest.raises(UnsupportedPairError):
        pairs("de/en", "en-GB/fr").route("de", "fr")


def test_without_pivoting_there_are_no_chains() -> None:
    known = pairs("de/en", "en/fr", pivot=False)
    with pytest.raises(UnsupportedPairError, match=r"there are: de-en, en-fr$"):
        known.route("de", "fr")
    assert known.pivoted == ()


@pytest.mark.parametrize(
    ("source", "target", "models"),
    [
        (None, None, ["de/en", "en/de", "en/fr", "en/fr-CA"]),
        ("de-AT", None, ["de/en"]),
        ("en", None, ["en/de", "en/fr", "en/fr-CA"]),
        (None, "fr-CH", ["en/fr"]),
        (None, "fr-CA", ["en/fr-CA"]),
        ("en", "de", ["en/de"]),
        ("nl", None, []),
    ],
)
def test_one_language_may_be_left_open(source: str | None, target: str | None, models: list[str]) -> None:
    known = pairs("de/en", "en/de", "en/fr", "en/fr-CA")
    assert [pair.model for pair in known.among(source, target)] == models
