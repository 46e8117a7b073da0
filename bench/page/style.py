"""How the page looks: in light and in dark, on wide and on narrow screens."""

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --ink: #1d2327; --soft: #5d676e; --rule: #dcdfe0; --panel: #f3f4f2;
  --exact: #b4540a; --reuse: #0b7a6f; --as-encoded: #7a6a00; --peer0: #5b3fb0; --peer1: #3d6aa8; --peer2: #a02c6d;
  --in-place: #8fcfc5; --repositioned: #0b7a6f; --encoded: #d9822b; --generated: #8795a1; --trailer: #c4cbd1;
  --shade0: #9db4c0; --shade1: #c2a878; --shade2: #d98b3a; --shade3: #cf5a28; --shade4: #b01e1e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15191c; --ink: #e6e9ea; --soft: #9aa5ac; --rule: #333b40; --panel: #1d2327;
    --exact: #f0a050; --reuse: #3fc9b8; --as-encoded: #d0bd4a; --peer0: #a894f0; --peer1: #7fb0f0; --peer2: #f08ac0;
    --in-place: #2b6d66; --repositioned: #3fc9b8; --encoded: #e39a4c; --generated: #6b7983; --trailer: #454f56;
    --shade0: #4d626e; --shade1: #8a7448; --shade2: #c47c30; --shade3: #e0662f; --shade4: #ff5a4d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; }
.about, figcaption { color: var(--soft); font-size: .875rem; }
.warning {
  border-left: 4px solid var(--shade4); padding: .5rem .8rem; background: var(--panel);
  overflow-wrap: anywhere;
}
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td {
  text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--rule); vertical-align: top;
}
td:first-child { min-width: 15rem; }
td:last-child { white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.met { color: var(--reuse); font-weight: 600; }
.missed { color: var(--shade4); font-weight: 600; }
.chart { margin: .6rem 0; }
.row { display: grid; grid-template-columns: 15rem 1fr; gap: 0 1rem; padding: .25rem 0; }
.row.lane { grid-template-columns: 9rem 1fr; padding: 0; }
.label { font-size: .875rem; overflow-wrap: anywhere; align-self: center; }
.lane .label {
  font-size: .75rem; line-height: 14px; color: var(--soft); text-align: right; overflow: hidden;
  white-space: nowrap; text-overflow: ellipsis;
}
.label.strong, .lane .label.strong {
  grid-column: 1 / -1; color: var(--ink); font-weight: 600; text-align: left; font-size: .875rem; margin-top: .8rem;
}
.bar-name { font-size: .75rem; line-height: 1.1; color: var(--soft); }
@media (max-width: 40rem) {
  .row { grid-template-columns: 1fr; }
  .row.lane { grid-template-columns: 5.5rem 1fr; gap: 0 .5rem; }
  .label { margin-top: .3rem; }
}
svg { display: block; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.value { fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; }
.whisker { stroke: currentColor; stroke-width: 2; }
.curve { stroke: currentColor; stroke-width: 2; }
circle { fill: currentColor; }
.exact { color: var(--exact); } .reuse { color: var(--reuse); } .as-encoded { color: var(--as-encoded); }
.peer0 { color: var(--peer0); } .peer1 { color: var(--peer1); } .peer2 { color: var(--peer2); }
.in-place { fill: var(--in-place); color: var(--in-place); }
.repositioned { fill: var(--repositioned); color: var(--repositioned); }
.encoded, .prefill { fill: var(--encoded); color: var(--encoded); }
.generated { fill: var(--generated); color: var(--generated); }
.decode { fill: var(--reuse); color: var(--reuse); }
.trailer { fill: var(--trailer); color: var(--trailer); }
.blocked { fill: var(--rule); color: var(--rule); } .queued { fill: var(--trailer); color: var(--trailer); }
.edge { stroke: currentColor; stroke-width: 2; }
.shade0 { color: var(--shade0); }
.shade1 { color: var(--shade1); }
.shade2 { color: var(--shade2); stroke-width: 2.5; }
.shade3 { color: var(--shade3); stroke-width: 3; } .shade4 { color: var(--shade4); stroke-width: 4; }
.node { fill: var(--ink); }
svg .node-name {
  fill: var(--ink); font-size: 11px; paint-order: stroke; stroke: var(--paper); stroke-width: 3px;
}
.legend { font-size: .8125rem; color: var(--soft); } .entry { margin-right: 1.1rem; white-space: nowrap; }
.key {
  display: inline-block; width: .8em; height: .8em; border-radius: 2px; background: currentColor;
  margin-right: .35em; vertical-align: -.05em;
}
.key.line { height: 4px; vertical-align: .2em; width: 1.4em; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--soft); font-size: .875rem; }
"""
