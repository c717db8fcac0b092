"""What Sphinx is told. Every page is Markdown; no page asks another machine for anything."""

from pathlib import Path

project = "attnlab"
author = "the authors of attnlab"
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["files"]
html_theme = "furo"
html_title = "attnlab"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # it fetches the pages that it quotes, which a browser refuses in a folder
html_permalinks_icon = "#"
highlight_language = "none"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
suppress_warnings = ["misc.highlighting_failure"]  # shell commands among Python, and the like
