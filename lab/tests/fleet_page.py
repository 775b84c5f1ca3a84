"""Checks the page that `lab fleet` writes: well formed, every chart in it, no wider than a phone.

Usage: fleet_page.py PAGE CHART..
"""

import sys
from pathlib import Path
from xml.etree import ElementTree

from demo_page import browser

SVG = "{http://www.w3.org/2000/svg}"


def main(page, charts):
    tree = ElementTree.parse(page)
    for chart in charts:
        figure = tree.find(f".//figure[@id='{chart}']")
        assert figure is not None, f"no chart {chart}"
        bars = figure.findall(f".//{SVG}rect")
        # The background is one.
        assert len(bars) > 1, f"no bars in {chart}"

    phone = browser()
    try:
        phone.set_window_size(500, 900)
        phone.get(Path(page).resolve().as_uri())
        wide, window = phone.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window, f"the page is {wide} wide in a window of {window}"
    finally:
        phone.quit()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
