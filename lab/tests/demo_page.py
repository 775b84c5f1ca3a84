"""Clicks through the page of `lab demo --serve` in a real browser.

Usage: demo_page.py URL [PICTURE]
"""

import shutil
import sys

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait


def browser():
    found = next(filter(None, map(shutil.which, ["chromium", "google-chrome", "chrome"])), None)
    driver = shutil.which("chromedriver")
    if not (found and driver):
        sys.exit("chromium or chromedriver is missing: .ci/tools installs both")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--window-size=1180,760"):
        options.add_argument(option)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def main(url, picture=None):
    page = browser()
    page.set_script_timeout(60)
    try:
        page.get(url)
        wait = WebDriverWait(page, 60, poll_frequency=0.1)

        def texts(side, selector):
            # In one step: rows are replaced all the time.
            script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
            return page.execute_script(script, f"#{side} {selector}")

        def click(name):
            xpath = f"//button[starts-with(normalize-space(.), '{name}')]"
            wait.until(lambda page: page.find_elements(By.XPATH, xpath))
            button = page.find_element(By.XPATH, xpath)
            wait.until(lambda _: button.is_enabled())
            button.click()

        def expect(side, selector, text):
            wait.until(lambda _: any(text in seen for seen in texts(side, selector)),
                       f"{side}: no {text!r} in {selector}")

        click("/begin")
        expect("without", "td", "idle in transaction")
        expect("without", "h2", "process stopped")
        expect("with", "li", "/begin: 200")
        click("ALTER TABLE")
        expect("with", ".clock", "done")
        expect("without", ".clock", "waiting")
        expect("without", "td", "waits for")
        states = texts("with", "td")
        assert "idle in transaction" not in states and "idle" in states, states
        # It has waited for so long that the picture shows it.
        expect("without", ".clock", " s")
        if picture:
            page.save_screenshot(picture)
        # The session ends with its process, and the migration goes on.
        click("Start both anew")
        expect("without", "td", "idle")
        wait.until(lambda _: "waiting" not in "".join(texts("without", ".clock")))
        # On a phone nothing is wider than the screen.
        page.set_window_size(500, 800)
        width = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], width
    finally:
        page.quit()
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
