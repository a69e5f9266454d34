"""The tables of a small bundle's species: names in four languages, one of them ambiguous."""

from pathlib import Path

from trainer.corpus.species_names import SpeciesNames

_TAXONOMY = """code,scientific_name,common_name,kind
eurbla,Turdus merula,Eurasian Blackbird,bird
gretit1,Parus major,Great Tit,bird
eurrob1,Erithacus rubecula,European Robin,bird
amerob,Turdus migratorius,American Robin,bird
guered1,Phoenicurus erythrogastrus,Güldenstädt's Redstart,bird
dog,Canis familiaris,Dog,animal
noise,Noise,Noise,sound
"""
_NAMES = """code,de,fr,ja,en_uk
eurbla,Amsel,Merle noir,クロウタドリ,Common Blackbird
gretit1,Kohlmeise,Mésange charbonnière,シジュウカラ,Great Tit
eurrob1,Rotkehlchen,Rouge-gorge familier,ヨーロッパコマドリ,Robin
amerob,Wanderdrossel,Merle d'Amérique,コマツグミ,Robin
guered1,Riesenrotschwanz,Rougequeue de Güldenstädt,アカハシリビタキ,Güldenstädt's Redstart
"""


def write_names(folder: Path) -> SpeciesNames:
    """The names of a bundle in `folder`, written there first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "taxonomy.csv").write_text(_TAXONOMY, encoding="utf8")
    (folder / "names.csv").write_text(_NAMES, encoding="utf8")
    return SpeciesNames.of_bundle(folder)
