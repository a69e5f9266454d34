"""One HTML page of a station's birds: the best detection of each species, with picture, sound and
evidence.

The page loads nothing from the network; pictures and sounds are files beside it. All text that
comes from files is escaped. Knows no store and no sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from edge.reports.best_detections import Evidence, SpeciesRecord
from edge.reports.spectrogram import SIZE, clock_text
from edge.reports.why import chance_text

# first line of a page that may be replaced
MARK = "<!doctype html><!-- Written by `python -m edge pictures` -->"

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #777; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { margin-bottom: .2rem; overflow-wrap: anywhere } h2 { margin: 0 }
h2 i { font-weight: normal; font-size: 1rem; margin-left: .4rem }
h2 i, .soft, figcaption, footer, article th { color: var(--soft) }
article { border-top: 1px solid var(--line); padding: 1.2rem 0 } figure { margin: .6rem 0 }
img { width: 100%; height: auto } audio { width: 100% } code { font-size: .9em }
table { border-collapse: collapse; width: 100% }
.all { margin: 1.2rem 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top;
  font-weight: normal }
.all tr { border-bottom: 1px solid var(--line) } .all .number { text-align: right }
article th { width: 9.5rem } article td { overflow-wrap: anywhere }
@media (max-width: 40rem) { .wide { display: none } article th { width: 6rem } }
"""


# class and title of the columns of the overview
_COLUMNS = (
    ("", "species"),
    ("wide", "scientific name"),
    ("number", "detections"),
    ("number wide", "files"),
    ("number", "best"),
    ("wide", "the one shown"),
)


@dataclass(frozen=True)
class Card:
    """A species on the page. Pictures and sounds are paths relative to it."""

    heard: SpeciesRecord
    shown: Evidence
    picture: str | None
    sound: str | None
    louder_db: float  # gain over the recording, dB
    silent: str  # reason for which there is no sound; "" where there is


def page(title: str, cards: Sequence[Card], made: str) -> str:
    """The whole page. `made`: a line with the station and the time of making."""
    licences = sorted({card.shown.licence for card in cards if card.shown.licence})
    terms = "".join(f"<p>Named by networks under {escape(licence)}</p>" for licence in licences)
    notices = sorted({card.shown.notice for card in cards if card.shown.notice})
    notice = "".join(f"<p><strong>{escape(one)}</strong></p>" for one in notices)
    body = _overview(cards) if cards else "<p>No species was heard above its threshold.</p>"
    return "\n".join(
        (
            f'{MARK}\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width">'
            f"<style>{_STYLE}</style></head><body>",
            f'<h1>{escape(title)}</h1><p class="soft">{escape(made)}</p>',
            notice + body,
            *map(_article, cards),
            f"<footer>{terms}<p>A score is not a certainty. Look, listen and review before you "
            "publish a record: <code>birdstation review</code>.</p></footer></body></html>",
        )
    )


def _overview(cards: Sequence[Card]) -> str:
    heads = "".join(f'<th class="{kind}">{name}</th>' for kind, name in _COLUMNS)
    rows = (
        f'<tr><td><a href="#{_anchor(card)}">{escape(card.heard.common_name)}</a></td>'
        f'<td class="wide"><i>{escape(card.heard.scientific_name)}</i></td>'
        f'<td class="number">{card.heard.detections}</td>'
        f'<td class="number wide">{card.heard.recordings}</td>'
        f'<td class="number">{card.heard.best:.2f}</td>'
        f'<td class="wide">{escape(card.shown.when)}</td></tr>'
        for card in cards
    )
    return f'<table class="all"><tr>{heads}</tr>{"".join(rows)}</table>'


def _anchor(card: Card) -> str:
    return escape(quote(card.heard.code, safe=""), quote=True)


def _article(card: Card) -> str:
    heard = card.heard
    shown = card.shown
    facts = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in _facts(card))
    return (
        f'<article id="{_anchor(card)}"><h2>{escape(heard.common_name)}'
        f"<i>{escape(heard.scientific_name)}</i></h2>"
        f"{_figure(card)}<table>{facts}</table>"
        f'<p class="soft">More: <code>birdstation why {escape(shown.id[:13])}</code></p></article>'
    )


def _figure(card: Card) -> str:
    if card.picture is None:
        return f'<p class="soft">{escape(card.silent)}</p>'
    alt = (
        f"Spectrogram of {card.heard.common_name}: time in the recording, pitch in kHz, the window "
        "marked"
    )
    size = 'width="{}" height="{}"'.format(*SIZE)
    parts = [f'<img src="{quote(card.picture)}" alt="{escape(alt)}" {size} loading="lazy">']
    if card.sound is not None:
        parts.append(f'<audio controls preload="none" src="{quote(card.sound)}"></audio>')
    words = card.silent
    if card.sound is not None and card.louder_db:
        words = f"Played {card.louder_db:.0f} dB louder than recorded."
    return f"<figure>{''.join(parts)}<figcaption>{escape(words)}</figcaption></figure>"


def _facts(card: Card) -> list[tuple[str, str]]:
    shown = card.shown
    moved = "" if shown.odds_moved is None else f", odds × {shown.odds_moved:.2g}"
    if shown.geo is not None:
        place = f"probability by the geo model on that day {chance_text(shown.geo)}{moved}"
    else:
        place = f"used{moved}" if moved else "not known, or switched off: sound alone decided"
    return [
        (
            "score",
            f"<b>{shown.score:.3f}</b>, threshold {shown.threshold:.3f} ({escape(shown.rule)})",
        ),
        ("acoustic score", f"{shown.acoustic:.3f}"),
        ("place and season", place),
        ("when", escape(shown.when)),
        ("in", f"{escape(shown.path)} at {clock_text(shown.offset_s)}"),
    ]
