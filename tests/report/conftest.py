"""A real browser, and what it finds wrong with a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NARROW, WIDE = 360, 1280


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: needs Chromium and the extra browser; make test-browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, if there is one."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    required = os.environ.get("TEST_BROWSER") == "1"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None  # type: ignore[assignment]
    if not (executable and sync_playwright):
        missing = "needs Chromium (Debian's package chromium) and tokenbuncher[browser]; make test-browser"
        pytest.fail(missing) if required else pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page from a file; gives the browser's page, whose `problems` hold what it complained of or asked for."""
    contexts = []

    def open_page(html: str, width: int = WIDE, **media: str) -> Any:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.emulate_media(**media)
        page.problems = []
        page.on("console", lambda message: page.problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: page.problems.append(f"error: {error}"))
        page.on("request", lambda asked: asked.url != path.as_uri() and page.problems.append(f"request: {asked.url}"))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


def inaccessible(page: Any) -> list[str]:
    """What axe finds wrong, however minor."""
    from axe_playwright_python.sync_playwright import Axe

    # Pages forbid scripts by their policy; the tester's own are evaluated, not loaded.
    found = Axe().run(page).response
    assert found["passes"], "axe found nothing to check"
    return [
        f"axe: {violation['id']} ({violation['impact']}): {node['html'][:200]}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def overflow(page: Any) -> list[str]:
    """Whether the page, not a region of it, must be scrolled sideways."""
    wide, shown = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    return [f"scrolls sideways: {wide} px on {shown}"] if wide > shown else []
