"""The style sheet of the reports of ``hub bench``: the colours are those of hub's own page."""

STYLE = """
:root { color-scheme: light dark; --ground: #fcfbf9; --raised: #fff; --sunken: #f4f2ed;
  --line: #ddd9d0; --ink: #1c2022; --soft: #565d61; --good: #1f6b3a; --bad: #9b2c22;
  --bad-ground: #fcf0ee; --hue-0: #12857c; --hue-1: #4263c9; --hue-2: #b2640a; --hue-3: #b83a6c;
  --hue-4: #4f8a2b; --hue-5: #7d4fc0; }
@media (prefers-color-scheme: dark) { :root { --ground: #15191b; --raised: #1c2124;
  --sunken: #101315; --line: #2d3437; --ink: #e6e7e5; --soft: #a1a9ac; --good: #86cf9a;
  --bad: #f2a097; --bad-ground: #2c1d1b; --hue-0: #45b8aa; --hue-1: #8aa4f2; --hue-2: #e0a050;
  --hue-3: #ec85ae; --hue-4: #93c66a; --hue-5: #bb9bf0; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 -apple-system,
  BlinkMacSystemFont, "Segoe UI", Roboto, "Noto Sans", Ubuntu, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { display: grid; gap: 2rem; max-width: 70rem; margin: 0 auto;
  padding: clamp(1.25rem, 4vw, 3rem) clamp(1rem, 4vw, 2.5rem) 4rem; }
main > * { min-width: 0; }
h1 { font-size: clamp(1.4rem, 4.5vw, 1.9rem); line-height: 1.2; letter-spacing: -.02em;
  text-wrap: balance; }
header p { margin-top: .4rem; color: var(--soft); }
h2 { margin-bottom: .75rem; font-size: 1rem; font-weight: 650; }
.small, .legend { color: var(--soft); font-size: .8125rem; }
.small { margin-top: .6rem; }
.said { display: grid; gap: .6rem; max-width: 46rem; text-wrap: pretty; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px; overflow: hidden;
  border: 1px solid var(--line); border-radius: 10px; background: var(--line); }
.cards div { padding: .8rem 1rem; background: var(--raised); }
.cards dt { color: var(--soft); font-size: .8125rem; }
.cards dd { font-size: 1.5rem; font-weight: 650; line-height: 1.3; letter-spacing: -.02em; }
.cards s { color: var(--soft); font-weight: 400; text-decoration: none; }
.cards s::after { content: " \\2192"; font-size: .8em; }
.cards small { font-size: .8125rem; font-weight: 400; letter-spacing: 0; }
.cards .change { color: var(--soft); font-size: .875rem; font-weight: 600; letter-spacing: 0; }
.cards .good { color: var(--good); } .cards .bad { color: var(--bad); }
.wrong { padding: .75rem 1rem; border-radius: 10px; background: var(--bad-ground);
  color: var(--bad); }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
figure { display: flex; flex-direction: column; min-width: 0; padding: 1rem 1.1rem;
  border: 1px solid var(--line); border-radius: 10px;
  background: var(--raised); }
figcaption { display: flex; flex-wrap: wrap; gap: .1rem .75rem; align-items: baseline;
  justify-content: space-between; margin-bottom: .8rem; }
.tall { grid-row: span 2; }
svg { display: block; width: 100%; overflow: visible; }
svg.curves { flex: 1; min-height: 200px; }
svg text { fill: var(--ink); font-size: 13px; }
svg .told { text-anchor: end; font-weight: 600; }
svg .tick { fill: var(--soft); font-size: 12px; paint-order: stroke; stroke: var(--raised);
  stroke-width: 4px; }
svg .grid { stroke: var(--line); }
svg path { fill: none; stroke: var(--hue); stroke-width: 2; vector-effect: non-scaling-stroke; }
svg .dashed { stroke-dasharray: 5 4; }
svg rect { fill: var(--hue); }
svg .behind { opacity: .32; }
.key, .line { display: inline-block; background: var(--hue, var(--soft)); }
.key { width: .7em; height: .7em; margin: 0 .3em 0 .5em; border-radius: 2px; }
.key.behind { opacity: .4; }
.line { width: 1.1em; height: 3px; margin-right: .4em; border-radius: 2px; vertical-align: .25em; }
.names { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin-top: .5rem; font-size: .8125rem; }
.hue-0 { --hue: var(--hue-0); } .hue-1 { --hue: var(--hue-1); } .hue-2 { --hue: var(--hue-2); }
.hue-3 { --hue: var(--hue-3); } .hue-4 { --hue: var(--hue-4); } .hue-5 { --hue: var(--hue-5); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px;
  background: var(--raised); }
table { width: 100%; border-collapse: collapse; font-size: .8125rem; white-space: nowrap; }
th, td { padding: .5rem .55rem; text-align: right; }
th { color: var(--soft); font-weight: 550; }
th:first-child, td:first-child { padding-left: .8rem; text-align: left; }
th:last-child, td:last-child { padding-right: .8rem; }
.words { color: var(--soft); text-align: left; }
tbody tr { border-top: 1px solid var(--line); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .7rem 1rem;
  border-radius: 10px; background: var(--sunken);
  font: .8125rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.meanings { display: grid; grid-template-columns: max-content minmax(0, 46rem);
  gap: .5rem 1.25rem; margin-top: 1.25rem; font-size: .875rem; }
.meanings dt { font-weight: 600; } .meanings dd { color: var(--soft); text-wrap: pretty; }
@media (max-width: 46rem) {
  main { gap: 1.5rem; }
  .plots { grid-template-columns: minmax(0, 1fr); }
  .cards { grid-template-columns: 1fr 1fr; }
  .cards dd { font-size: 1.2rem; } .cards .change { font-size: .875rem; }
  .meanings { grid-template-columns: minmax(0, 1fr); gap: 0; } .meanings dd { margin: 0 0 .6rem; }
}
@media print { figure, .cards { break-inside: avoid; } }
"""
