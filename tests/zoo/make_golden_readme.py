# SPDX-License-Identifier: Apache-2.0
"""Write ``golden_readme.json``: the cells of Detectron2's table of ViTDet checkpoints, as they are.

    python -m tests.zoo.make_golden_readme DETECTRON2/projects/ViTDet/README.md

Cells are read by an HTML parser, nothing is interpreted.
"""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path


class Table(HTMLParser):
    """Collects rows of cells, each a text, and the links in them."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[list[str]] = []
        self.in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
            self.links.append([])
        elif tag == "td":
            self.rows[-1].append("")
            self.in_cell = True
        elif tag == "a" and self.in_cell:
            self.links[-1].append(dict(attrs)["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data


def main() -> None:
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    table = Table()
    table.feed(text)
    rows = [
        {"cells": [cell.strip() for cell in cells], "links": links}
        for cells, links in zip(table.rows, table.links, strict=True)
        if any(link.endswith(".pkl") for link in links)
    ]
    golden = {
        "source": "facebookresearch/detectron2 02b5c4e, projects/ViTDet/README.md",
        "rows": rows,
    }
    target = Path(__file__).with_name("golden_readme.json")
    target.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
