"""Elements of a self-contained HTML page: sections, tables, cards, pictures. All text is escaped
here, once.

Knows nothing of what the page is about.
"""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

_TYPES = {b"\x89PNG": "image/png", b"<?xml": "image/svg+xml"}


@dataclass(frozen=True)
class Html:
    """Finished markup; a plain str is text and will be escaped."""

    markup: str


@dataclass(frozen=True)
class Share:
    """A number from 0 to 1 that a table shows with a bar behind it."""

    value: float


Cell = str | int | float | Share | None


def number(value: float | None, digits: int = 3) -> str:
    """A figure as text, or a dash if there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def paragraph(text: str, *, missing: bool = False) -> Html:
    kind = ' class="missing"' if missing else ""
    return Html(f"<p{kind}>{escape(text)}</p>")


def picture(data: bytes, alt: str) -> Html:
    """An image inside the page. Raises KeyError unless it is PNG or SVG."""
    kind = next(_TYPES[start] for start in _TYPES if data.startswith(start))
    return Html(
        f'<img alt="{escape(alt)}" src="data:{kind};base64,{base64.b64encode(data).decode()}">'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], numbers_from: int = 1) -> Html:
    """A table; columns from `numbers_from` on are right-aligned."""

    def kind(column: int) -> str:
        return ' class="number"' if column >= numbers_from else ""

    head = "".join(f"<th{kind(i)}>{escape(name)}</th>" for i, name in enumerate(header))
    body = "".join(
        "<tr>" + "".join(_cell(value, kind(i)) for i, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return Html(
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Cell, kind: str) -> str:
    if isinstance(value, Share):
        if math.isfinite(value.value):
            return (
                f'<td class="number bar" '
                f'style="--share:{100 * value.value:.0f}%">{number(value.value)}</td>'
            )
        value = None
    if value is None:
        text = "–"
    elif isinstance(value, str):
        text = escape(value)
    else:
        text = f"{value:,}" if isinstance(value, int) else number(value)
    return f"<td{kind}>{text}</td>"


def card(label: str, figure: str, note: str) -> Html:
    """A headline figure."""
    return Html(
        f'<div class="card"><span class="label">{escape(label)}</span><b>{escape(figure)}</b>'
        f"<span>{escape(note)}</span></div>"
    )


def details(summary: str, text: str) -> Html:
    """Preformatted text that can be expanded."""
    return Html(f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>")


def pair(left: Html, right: Html) -> Html:
    """Two elements side by side if there is room."""
    return Html(f'<div class="pair"><div>{left.markup}</div><div>{right.markup}</div></div>')


@dataclass(frozen=True)
class Section:
    """A titled part of the page, reachable by its anchor."""

    anchor: str
    title: str
    parts: tuple[Html, ...]

    def html(self) -> str:
        body = "".join(part.markup for part in self.parts)
        return f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>{body}</section>'


def page(
    title: str,
    subtitle: str,
    cautions: Sequence[str],
    cards: Sequence[Html],
    sections: Sequence[Section],
    footer: str,
) -> str:
    """The whole document: page.html filled in, with `cautions` on top. It loads nothing from
    elsewhere."""
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf8"))
    return template.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        cautions="".join(f'<p class="caution">Warning: {escape(line)}.</p>' for line in cautions),
        cards="".join(c.markup for c in cards),
        links="".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections),
        sections="\n".join(s.html() for s in sections),
        footer=escape(footer),
    )
