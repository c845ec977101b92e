"""Self-contained HTML pages: no script, no outside file, and every name from data escaped."""

import base64
import html
from collections.abc import Sequence

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #d8dee4; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
figure { margin: 1rem 0; } figure img { max-width: 100%; } figcaption, .note { color: #57606a; font-size: .9rem; }
.grid { display: flex; flex-wrap: wrap; gap: 1rem; }
.card { width: 8.5rem; font-size: .85rem; line-height: 1.35; overflow-wrap: anywhere; }
.card img { width: 6rem; height: 6rem; image-rendering: pixelated; border-radius: .3rem; }
.wide { overflow-x: auto; } .wide td { white-space: nowrap; }
.wrong { color: #b42318; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document from parts made by the functions below."""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</html>\n"
    )


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(str(c))}</th>" for c in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def wide(table: str) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    return f'<div class="wide">{table}</div>'


def figure(png: bytes, caption: str) -> str:
    return f'<figure><img src="{_data_uri(png)}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>'


def prediction_card(png: bytes, truth: str, ranked: Sequence[tuple[str, float]]) -> str:
    """One image with its true class and the predicted ones."""
    wrong = ranked[0][0] != truth
    lines = "<br>".join(f"{html.escape(name)} {probability:.1%}" for name, probability in ranked)
    truth = f'<b class="{"wrong" if wrong else "right"}">is {html.escape(truth)}</b>'
    return f'<div class="card"><img src="{_data_uri(png)}" alt=""><br>{truth}<br>{lines}</div>'


def card(png: bytes, lines: Sequence[str]) -> str:
    """One image with what is said of it."""
    return f'<div class="card"><img src="{_data_uri(png)}" alt=""><br>{"<br>".join(map(html.escape, lines))}</div>'


def grid(cards: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(cards)}</div>'


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
