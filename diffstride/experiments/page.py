"""One HTML page with tables, figures, configurations and commands.

The page is one file: images are part of it, and it has no scripts.
"""

import base64
import collections
import html

from diffstride.experiments.runs import shell_command

PIXELS_PER_INCH = 64
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; margin: 0 auto;
  max-width: 62rem; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #d0d0d0; padding: 0.3rem 0.6rem;
  text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #707070; }
td, th span { white-space: nowrap; }
td.text { white-space: normal; min-width: 12rem; }
.aside { color: #555; font-size: 0.85rem; }
td .aside { display: block; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; }
pre { background: #f4f4f4; padding: 0.6rem; font-size: 0.8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.trouble { border-left: 4px solid #b3261e; padding-left: 0.8rem; }
summary { cursor: pointer; }
h2::first-letter { text-transform: uppercase; }
@media (max-width: 30rem) {
  table { font-size: 0.8rem; }
  th, td { padding: 0.2rem 0.35rem; }
}
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: 0.15rem 0.3rem; }
  td { white-space: normal; }
  figure, tr { break-inside: avoid; }
  figure img { max-height: 10cm; min-width: 0 !important; }
  h2 { break-after: avoid; }
}
"""


def make_page(folder, tables, drawings):
    """The page as text.

    Args:
        folder: `RunFolder`.
        tables: list of `Table`.
        drawings: list of pairs of a `Drawing` and the path of its SVG.
    """
    title = folder.title
    parts = [f"<h1>{_escape(title)}</h1>", _summary(folder)]
    if folder.sweep is not None and folder.sweep.header:
        parts.append(f"<pre>{_escape(folder.sweep.header)}</pre>")
    parts += [_table(table) for table in tables]
    parts += [_figure(drawing, path) for drawing, path in drawings]
    parts += [_commands(folder), _sweep_file(folder), _configuration(folder)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(part for part in parts if part)
        + "</body></html>\n"
    )


def summary_lines(folder):
    """The number of finished runs, and the problems of the others."""
    expected = len(folder.sweep.runs) if folder.sweep else None
    count = len(folder.runs)
    first = f"{count} finished run{'' if count == 1 else 's'}"
    if expected is not None:
        first = f"{count} of {expected} runs of the sweep are finished"
    trouble = [
        f"{name}: {what}"
        for what_became in (folder.unfinished, folder.foreign)
        for name, what in what_became.items()
    ]
    return first, trouble


def environments(folder):
    """When, where and with which versions the runs were made, if known."""
    runs = [run for run in folder.runs if run.environment]
    if not runs:
        return []
    dates = sorted(str(run.environment.get("date", ""))[:10] for run in runs)
    when = f"on {dates[0]}"
    if dates[0] != dates[-1]:
        when = f"from {dates[0]} to {dates[-1]}"
    counts = collections.Counter(_environment(run) for run in runs)
    if len(counts) == 1:
        return [f"Made {when} {next(iter(counts))}."]
    return [
        f"Made {when}:",
        *(f"{count} of them {text}." for text, count in counts.items()),
    ]


def _environment(run):
    found = run.environment
    devices = f"{found.get('devices', 1)} x {found.get('device', 'unknown')}"
    versions = found.get("versions", {})
    parts = [f"{name} {version}" for name, version in versions.items()]
    if found.get("commit"):
        commit, dash, dirty = found["commit"].partition("-")
        parts.append(f"commit {commit[:10]}{dash}{dirty}")
    return f"on {devices}, with {', '.join(parts)}"


def _summary(folder):
    first, trouble = summary_lines(folder)
    name = folder.path.resolve().name
    text = f"<p><code>{_escape(name)}</code>: {_escape(first)}."
    if folder.bindings:
        bindings = _escape("; ".join(folder.bindings))
        text += f" For all of them: <code>{bindings}</code>."
    text += "</p>"
    lines = "<br>".join(map(_escape, environments(folder)))
    if lines:
        text += f'<p class="aside">{lines}</p>'
    if trouble:
        items = "".join(f"<li>{_escape(line)}</li>" for line in trouble)
        text += (
            '<div class="trouble"><p>Left out of all that follows:</p>'
            f"<ul>{items}</ul></div>"
        )
    return text


def _table(table):
    head = "".join(
        f'<th scope="col">{_escape(name)}</th>'
        for name in (table.corner, *table.columns)
    )
    rows = ""
    for name, cells in table.rows.items():
        # Let narrow screens break lines between labels only.
        labels = [
            f"<span>{_escape(label)}</span>" for label in name.split(", ")
        ]
        rows += f'<tr><th scope="row">{", ".join(labels)}</th>'
        for cell in cells:
            text = _escape(str(cell))
            if cell.best:
                text = f"<b>{text}</b>"
            if cell.published:
                text += (
                    f'<span class="aside">({_escape(cell.published)})</span>'
                )
            if name != "mean of all" and table.count(cell):
                text += f'<span class="aside">{table.count(cell)}</span>'
            kind = ' class="text"' if cell.text else ""
            rows += f"<td{kind}>{text}</td>"
        rows += "</tr>\n"
    return (
        f"<section><h2>{_escape(table.title)}</h2><div class='scroll'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>"
        f'<p class="aside">{_escape(table.note)}</p></section>'
    )


def _figure(drawing, path):
    image = base64.b64encode(path.read_bytes()).decode()
    caption = _escape(drawing.caption)
    # Below this width the words in the figure would be too small to read.
    width = round(PIXELS_PER_INCH * drawing.figure.get_figwidth())
    return (
        f'<figure><div class="scroll"><img alt="{caption}" '
        f'style="min-width: {width}px" '
        f'src="data:image/svg+xml;base64,{image}"></div>'
        f'<figcaption class="aside">{caption}</figcaption></figure>'
    )


def _commands(folder):
    """The command of one run of each configuration."""
    commands = []
    for runs in folder.configurations().values():
        if runs[0].command:
            commands.append(shell_command(runs[0].command))
    if not commands:
        return ""
    text = _escape("\n\n".join(commands))
    return (
        "<section><h2>Commands</h2><p>One run of each configuration; the other "
        f"seeds differ in <code>--seed</code>.</p><pre>{text}</pre></section>"
    )


def _sweep_file(folder):
    if folder.sweep is None:
        return ""
    return (
        "<section><h2>Sweep file</h2><details><summary>What was asked for"
        f"</summary><pre>{_escape(folder.sweep.text)}</pre></details></section>"
    )


def _configuration(folder):
    """The bindings that all runs share, and those of some runs only."""
    counts = collections.Counter(
        line for run in folder.runs for line in set(run.config)
    )
    if not counts:
        return ""
    total = len(folder.runs)
    common = sorted(line for line, count in counts.items() if count == total)
    others = sorted(line for line, count in counts.items() if count < total)
    text = "\n".join(
        [
            *common,
            *(["", "# Of some of the runs:"] if others else []),
            *others,
        ]
    )
    return (
        "<section><h2>Configuration</h2><details><summary>Every parameter of "
        "the runs, as gin bound it</summary>"
        f"<pre>{_escape(text)}</pre></details></section>"
    )


def _escape(text):
    return html.escape(str(text))
