"""How the pages of ``watcherd report`` and ``watcherd evaluate`` look, in light, in dark and on paper.

Series have the colours of M. Okabe and K. Ito ("Color Universal Design", 2008), fit for colour-blind people; in the
dark they are lighter.
"""

from __future__ import annotations

SERIES = """
:root {
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73;
  --c3: #b0588f; --c4: #c28a00; --c5: #3b9fd1; --c6: #7a6a53; --c7: #777777;
}
@media (prefers-color-scheme: dark) {
  :root {
    --c0: #4aa8e0; --c1: #f28b46; --c2: #3cc79e;
    --c3: #dd93c1; --c4: #ecbb4a; --c5: #9bd3f0; --c6: #bda98c; --c7: #a9b0b8;
  }
}
""" + "\n".join(
    f".s{place} {{ fill: var(--c{place}); stroke: none; background: var(--c{place}); }} "
    f".line.s{place} {{ stroke: var(--c{place}); }}"
    for place in range(8)
)
"""Colours of series, for whatever page they stand on."""

PARTS = """
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 18px 20px; margin: 16px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 16px 0; }
.tiles div { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 14px 16px; }
.tiles dt { color: var(--quiet); font-size: 13px; }
.tiles dd { margin: 0; color: var(--quiet); font-size: 13px; }
.tiles dt + dd { color: var(--ink); font-size: 26px; font-weight: 650;
  line-height: 1.3; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; margin: 4px 0 8px; }
th { color: var(--quiet); font-weight: 600; font-size: 13px; border-bottom: 1px solid var(--axis); }
th, td { padding: 5px 14px 5px 0; text-align: left; vertical-align: top; }
td { border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
.w { min-width: 7em; }
.w:nth-child(2), .w:last-child { min-width: 14em; }
th:first-child, td:first-child { min-width: 0; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th:last-child, td:last-child { padding-right: 0; }
figure { margin: 8px 0; }
figure img { max-width: 100%; height: auto; border-radius: 6px; display: block; }
figcaption { color: var(--quiet); font-size: 13px; overflow-wrap: anywhere; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 12px; }
.legend { list-style: none; display: flex; flex-wrap: wrap;
  gap: 4px 18px; margin: 8px 0 0; padding: 0; font-size: 13px; color: var(--quiet); }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
svg { display: block; width: 100%; min-width: 720px; height: auto; margin-top: 4px; }
svg text { fill: var(--quiet); font-size: 12px; }
svg .y { text-anchor: end; }
svg .x { text-anchor: middle; }
.grid { stroke: var(--rule); }
.axis { stroke: var(--axis); }
.hit { fill: transparent; }
g:hover .hit { fill: var(--rule); }
.line { fill: none !important; stroke-width: 1.8; stroke-linejoin: round; }
.dot { fill-opacity: 0.6; stroke: none !important; }
@media (max-width: 640px) { .tiles { grid-template-columns: 1fr 1fr; } }
@media print { section, .tiles div { break-inside: avoid; } }
"""
"""Sections, tables, tiles and charts. They need ``--card``, ``--ink``, ``--quiet``, ``--rule`` and ``--axis``."""

STYLE = f"""
:root {{
  --ground: #f6f7f9; --card: #ffffff; --ink: #1b2330; --quiet: #5d6878; --rule: #e3e7ec; --axis: #aab3bf;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --ground: #12161c; --card: #1a2028; --ink: #e6eaf0; --quiet: #98a4b3; --rule: #2a323d; --axis: #5a6675;
  }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }}
header, main {{ max-width: 1060px; margin: 0 auto; padding: 0 20px; }}
header {{ padding-top: 32px; padding-bottom: 12px; }}
main {{ padding-bottom: 48px; }}
h1 {{ margin: 0 0 4px; font-size: 26px; letter-spacing: -0.01em; }}
h2 {{ margin: 0 0 8px; font-size: 18px; }}
h3 {{ margin: 18px 0 4px; font-size: 14px; color: var(--quiet); font-weight: 600; }}
p {{ margin: 0 0 8px; }}
header p {{ margin: 0; }}
.quiet, header p {{ color: var(--quiet); }}
code {{ font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }}
{PARTS}@media (max-width: 640px) {{ header, main {{ padding-left: 10px; padding-right: 10px; }} }}
@media print {{ body {{ background: none; }} }}
{SERIES}
"""
"""Of a whole page."""
