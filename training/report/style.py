"""The frame of a report page: its style sheet, light and dark, and what surrounds the content."""

from html import escape

LINES = ("#2a78d6", "#eb6834", "#1baf7a", "#eda100", "#e87ba4", "#008300", "#4a3aa7", "#e34948")
LINES_DARK = ("#3987e5", "#d95926", "#199e70", "#c98500", "#d55181", "#38a838", "#9085e9", "#e66767")


def _properties(lines: tuple[str, ...], **colors: str) -> str:
    named = {f"line-{number}": color for number, color in enumerate(lines)} | colors
    return "".join(f"--{name}:{color};" for name, color in named.items())


LIGHT = _properties(
    LINES, page="#f6f7f9", card="#fff", text="#16181d", muted="#5b6270", grid="#e3e6ea", heat="42,120,214"
)
DARK = _properties(
    LINES_DARK, page="#121417", card="#1b1e23", text="#e9ebee", muted="#a3abb8", grid="#323740", heat="57,135,229"
)
STYLE = (
    f":root{{color-scheme:light dark;{LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1200px;margin:0 auto;padding:20px 16px 48px}
h1{font-size:1.6rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:32px 0 10px}
h3{font-size:.95rem;margin:14px 0 6px;color:var(--muted);font-weight:600}
p{margin:4px 0;color:var(--muted);overflow-wrap:anywhere}
.state{display:inline-block;padding:2px 10px;border-radius:99px;background:rgba(var(--heat),.16)}
.state{font-weight:600;color:var(--text)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin-top:16px}
.tile,.chart,.card{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:1.35rem;line-height:1.3}
.tile span{color:var(--muted);font-size:.85rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:12px}
.chart{margin:0;min-width:0}
figcaption{font-weight:600;margin-bottom:4px}
.chart svg{width:100%;height:auto;display:block}
svg text{font-size:12px;fill:var(--muted)}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.85rem;color:var(--muted);overflow-wrap:anywhere}
.legend b{color:var(--text);font-weight:600}
.legend i,.swatch{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:5px;vertical-align:-1px}
.swatch{border:1px solid var(--muted)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th{color:var(--muted);font-weight:600;font-size:.85rem}
th:first-child,td:first-child{text-align:left}
tr:last-child td{border-bottom:0}
.bar{display:inline-block;vertical-align:middle;width:90px;height:8px;border-radius:4px;background:var(--grid);margin-left:8px}
.bar i{display:block;height:8px;border-radius:4px;background:var(--line-0)}
.spark{width:80px;height:20px;vertical-align:middle}
.matrix{width:auto}
.matrix th,.matrix td{padding:4px 6px;text-align:center;border:1px solid var(--card);font-size:.8rem}
.matrix td{min-width:30px}
.matrix th.label{text-align:right}
.matrix th.top{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left}
.photos{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,540px),1fr));gap:12px}
.photo{display:grid;grid-template-columns:repeat(3,1fr);gap:6px}
.photo div{grid-column:1/-1;display:flex;justify-content:space-between;gap:10px;font-size:.85rem}
.photo div span:first-child{overflow-wrap:anywhere}
.photo img{width:100%;border-radius:6px;display:block;image-rendering:auto}
.photo small{color:var(--muted)}
.pairs td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.pairs td:first-child{color:var(--muted);white-space:nowrap;width:1%}
pre{overflow-x:auto;margin:0;font-size:.85rem}
details>summary{cursor:pointer;font-weight:600}
.warning{border-left:4px solid var(--line-3);margin-bottom:8px}
@media(max-width:480px){.pairs td:first-child{white-space:normal;width:30%}th,td{padding:5px 6px}.bar{width:44px}}
"""
)


def page(title: str, content: str, refresh: int | None = None) -> str:
    """A whole HTML document, which loads itself anew every `refresh` seconds where that is given."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"{again}<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{content}</main></body></html>\n"
    )


def tiles(figures: dict[str, str]) -> str:
    """Figures in large print: what each is -> its text."""
    cells = (
        f'<div class="tile"><b>{escape(text)}</b><span>{escape(what)}</span></div>' for what, text in figures.items()
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def pairs(facts: dict[str, str]) -> str:
    """A table of two columns."""
    rows = (f"<tr><td>{escape(what)}</td><td>{escape(text)}</td></tr>" for what, text in facts.items() if text)
    return f'<div class="card"><table class="pairs">{"".join(rows)}</table></div>'


def section(title: str, content: str) -> str:
    """A heading and what is under it; empty where nothing is."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def duration(seconds: float) -> str:
    """Such as 1 h 04 min, 12 min 05 s or 8 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
