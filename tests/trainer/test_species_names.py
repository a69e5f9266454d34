"""Names of species: codes, scientific and common ones in every language of a bundle, in any
spelling; what is not recognised is named with what it may be."""

import unicodedata
from pathlib import Path

import pytest

from edge.contract.errors import BundleError
from edge.contract.taxonomy import NOCALL, Taxonomy
from tests.helpers.named_species import write_names
from trainer.corpus.species_names import Label, SpeciesNames, slug


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> SpeciesNames:
    return write_names(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("eurbla", "eurbla"),
        ("EURBLA", "eurbla"),
        ("Turdus merula", "eurbla"),
        ("turdus_MERULA", "eurbla"),
        ("Turdus-merula", "eurbla"),
        ("Turdus merula_Eurasian Blackbird", "eurbla"),
        ("Turdus merula_a name of nowhere", "eurbla"),
        ("Turdus merula, Eurasian Blackbird", "eurbla"),
        ("Turdus pilaris_Amsel", "eurbla"),
        ("Amsel", "eurbla"),
        ("  amsel ", "eurbla"),
        ("merle noir", "eurbla"),
        ("クロウタドリ", "eurbla"),
        (unicodedata.normalize("NFD", "クロウタドリ"), "eurbla"),
        ("GreatTit", "gretit1"),
        ("great-tit", "gretit1"),
        ("Mesange charbonniere", "gretit1"),
        (unicodedata.normalize("NFD", "Mésange charbonnière"), "gretit1"),
        ("Rouge gorge familier", "eurrob1"),
        ("Güldenstädt’s_Redstart", "guered1"),
        ("guldenstadts redstart", "guered1"),
        ("Merle d’Amérique 🐦", "amerob"),
        ("Dog_Dog", "dog"),
    ],
)
def test_a_name_is_recognised_in_any_language_and_spelling(
    names: SpeciesNames, written: str, code: str
) -> None:
    assert [species.code for species in names.find(Label.of(written))] == [code]


def test_a_name_of_two_species_says_so(names: SpeciesNames) -> None:
    assert [species.code for species in names.find(Label.of("robin"))] == ["amerob", "eurrob1"]


@pytest.mark.parametrize("written", ["Blackbrd", "🐦", "", "Turdus", "a"])
def test_what_is_no_name_is_not_recognised(names: SpeciesNames, written: str) -> None:
    assert names.find(Label.of(written)) == ()


@pytest.mark.parametrize(
    ("written", "first"),
    [
        ("Blackbrd", "Common Blackbird (eurbla)"),
        ("Kohlmeisse", "Kohlmeise (gretit1)"),
        ("Turdus merulus", "Turdus merula (eurbla)"),
        ("gretit", "Great Tit (gretit1)"),
        ("Mésange", "Mésange charbonnière (gretit1)"),
    ],
)
def test_the_nearest_names_come_first(names: SpeciesNames, written: str, first: str) -> None:
    near = names.nearest(written)
    assert near[0] == first
    codes = [name.split("(")[-1] for name in near]
    assert len(codes) == len(set(codes)), "each species once"


def test_nothing_is_near_to_nonsense(names: SpeciesNames) -> None:
    assert names.nearest("qqqqqq") == []
    assert names.nearest("🐦") == []


@pytest.mark.parametrize(
    ("written", "is_background"),
    [
        *(("Noise", True), ("BACKGROUND", True), ("no call", True), ("silence", True)),
        *(("other", True), ("Amsel", False), ("noisy miner", False), ("Other robin", False)),
    ],
)
def test_classes_that_are_no_species_are_backgrounds(written: str, is_background: bool) -> None:
    assert Label.of(written).is_background is is_background


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Great Tit", "great_tit"),
        ("Blackbird", "blackbird"),
        ("Güldenstädt's Redstart", "guldenstadts_redstart"),
        ("Robin 🐦 ", "robin"),
    ],
)
def test_a_name_becomes_a_code(name: str, code: str) -> None:
    assert slug(name) == code


@pytest.mark.parametrize("name", ["クロウタドリ", "Зяблик", "A", "x" * 50, NOCALL, "Amsel クロ"])
def test_a_code_is_always_usable(name: str) -> None:
    code = slug(name)
    Taxonomy([Label(name, code).species])
    assert code != slug(name + "y")
    assert code == slug(name), "always the same"


def test_a_bundle_may_have_no_other_languages(tmp_path: Path) -> None:
    write_names(tmp_path)
    (tmp_path / "names.csv").unlink()
    names = SpeciesNames.of_bundle(tmp_path)
    assert names.find(Label.of("Amsel")) == ()
    assert [s.code for s in names.find(Label.of("Eurasian blackbird"))] == ["eurbla"]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    write_names(tmp_path)
    (tmp_path / "names.csv").write_text("nothing\n")
    with pytest.raises(BundleError, match=r"names\.csv"):
        SpeciesNames.of_bundle(tmp_path)
    (tmp_path / "taxonomy.csv").unlink()
    with pytest.raises(BundleError, match=r"taxonomy\.csv"):
        SpeciesNames.of_bundle(tmp_path)
