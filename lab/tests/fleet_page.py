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

    window = browser()
    try:
        window.get(Path(page).resolve().as_uri())
        # A phone; A4 in landscape, less its margins.
        for medium, width in [("screen", 375), ("print", 1031)]:
            window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium})
            window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                "width": width, "height": 700, "deviceScaleFactor": 1, "mobile": False})
            wide = window.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"the page is {wide} wide on a {medium} of {width}"
    finally:
        window.quit()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
