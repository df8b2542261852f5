"""Parts of an HTML page that is one file: `watcherd report` and `watcherd evaluate` write such pages.

A page asks for nothing from anywhere, which its own policy (``Content-Security-Policy``) has the browser hold it to,
and holds no script. Every text that comes from outside goes through `escape`; pictures are part of the page.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING

from watcherd.report.style import STYLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, body: str, header: Iterable[str], *, also: str = "") -> str:
    """The whole page. ``header``: HTML below the title; ``also``: what else the window's title says."""
    window = ", ".join(filter(None, (title, also)))
    below = "\n".join(header)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(window)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{below}
</header>
<main>
{body}
</main>
</body>
</html>
"""


def picture(content: bytes, kind: str, words: str) -> str:
    """A picture with its words below. ``kind``: png or jpeg."""
    data = b64encode(content).decode()
    return (
        f'<figure><img alt="{escape(words)}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def section(title: str, body: str) -> str:
    """A part of the page under its title. ``body``: HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def table(head: Iterable[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Rows of texts. ``words``: how many of the first columns hold words; numbers stand on the right."""
    kinds = [*("w" for _ in range(words))]

    def cells(tag: str, texts: Iterable[str]) -> str:
        return "".join(
            f'<{tag} class="{kinds[place] if place < words else "n"}">{escape(text)}</{tag}>'
            for place, text in enumerate(texts)
        )

    lines = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", head)}</tr></thead>\n<tbody>{lines}</tbody></table></div>'
