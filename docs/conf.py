"""Settings of the documentation's site, which `make docs` builds with Sphinx, MyST-Parser and Furo.

Source: Sphinx, *Configuration*; MyST-Parser, *Configuration*.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

from joblane import __version__

project = "Joblane"
release = __version__
language = "en"

extensions = ["myst_parser"]
myst_heading_anchors = 4  # the same anchors as on GitHub
nitpicky = True

html_theme = "furo"
html_title = "Joblane"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = False

FILE_OF_THE_ROOT = re.compile(r"\]\((?:\.\./)+(CHANGELOG|CONTRIBUTING|SECURITY)\.md")


def link_root_files(_: Sphinx, __: str, content: list[str]) -> None:
    """Point links to files outside of this folder to the pages that include them."""
    content[0] = FILE_OF_THE_ROOT.sub(r"](/project/\1.md", content[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_root_files)
