"""The customers page as a person uses it: a real Chromium before a whole deployment."""

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from shopsync_pipeline_tests.acceptance.deployment import Deployment, SimulatedStore, deployed

pytestmark = pytest.mark.pages

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",  # which root may not have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SYNC_MS = 60_000
SEEN_SECONDS = 2.0
CUSTOMERS = 40


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with deployed(WEBHOOK_LINGER_SECONDS="60") as deployment:
        yield deployment


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Logs in nowhere yet. A fault of a script, or what the policy forbids, fails the test."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(SYNC_MS)  # the pages of Dagster's UI are large
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None,
    )
    yield page
    context.close()
    assert faults == []


@pytest.fixture
def store(deployment: Deployment) -> SimulatedStore:
    if not deployment.stores:
        deployment.add_store("acme", customers=CUSTOMERS)
    return deployment.stores[0]


def log_in(page: Page, deployment: Deployment) -> None:
    page.goto(f"{deployment.receiver}/dashboard/customers")
    assert deployment.settings.api_token is not None
    page.get_by_label("Token").fill(deployment.settings.api_token)
    page.get_by_role("main").get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Customers", exact=True)).to_be_visible()


def test_a_store_is_connected_synced_watched_and_traced_to_its_run(
    page: Page, deployment: Deployment, store: SimulatedStore
) -> None:
    log_in(page, deployment)
    connect(page, store)
    sync_with_progress(page)
    turn_realtime_on(page, store)
    customer = edit_and_see(page, store, deployment)
    find_and_open(page, customer)
    follow_the_run(page, deployment)


def main(page: Page) -> Locator:
    """Without what is said to a screen reader alone."""
    return page.get_by_role("main")


def connect(page: Page, store: SimulatedStore) -> None:
    page.get_by_role("link", name="Connect a store").first.click()
    page.get_by_label("Organization id").fill(store.organization)
    page.get_by_label("Shop", exact=True).fill("no shop")
    page.get_by_label("Client id").fill(store.client_id)
    page.get_by_label("Client secret").fill(store.client_secret)
    page.get_by_role("button", name="Connect and sync").click()
    expect(page.get_by_label("Shop", exact=True)).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Shop", exact=True).fill(store.shop)
    page.get_by_label("Client id").fill(store.client_id)
    page.get_by_label("Client secret").fill(store.client_secret)
    page.get_by_role("button", name="Connect and sync").click()
    expect(
        main(page).get_by_text(re.compile(rf"Sync succeeded: {CUSTOMERS} inserted"))
    ).to_be_visible(timeout=SYNC_MS)
    page.get_by_role("link", name="Go to the customers page").click()


def sync_with_progress(page: Page) -> None:
    """The page is not loaded again; a screen reader is told what the eye sees."""
    page.get_by_role("button", name="Sync Shopify").click()
    expect(main(page).get_by_text(re.compile("Sync (queued|running)"))).to_be_visible()
    expect(main(page).get_by_text("Sync succeeded: 0 inserted")).to_be_visible(timeout=SYNC_MS)
    expect(page.locator("#announcement")).to_contain_text("Sync succeeded")


def turn_realtime_on(page: Page, store: SimulatedStore) -> None:
    page.get_by_role("button", name="Enable Real-time Sync").click()
    expect(page.get_by_role("button", name="Disable Real-time Sync")).to_be_visible(timeout=SYNC_MS)
    assert "CUSTOMERS_UPDATE" in store.topics()


def edit_and_see(page: Page, store: SimulatedStore, deployment: Deployment) -> str:
    """Seen within two seconds, on a page that was loaded before, once a drain is alive."""
    first, last = store.ids()[:2]
    store.edit(first, firstName="Wakes", lastName="The Drain")
    expect(page.get_by_role("link", name="Wakes The Drain")).to_be_visible(timeout=SYNC_MS)
    loaded = page.evaluate("performance.timeOrigin")
    page.get_by_label("Search", exact=True).focus()
    began = time.monotonic()
    store.edit(last, firstName="Zoë", lastName="Quick")
    expect(page.get_by_role("link", name="Zoë Quick")).to_be_visible(timeout=10_000)
    took = time.monotonic() - began
    print(f"an edit in the store was on the page after {took:.2f} s")
    assert took < SEEN_SECONDS
    assert page.evaluate("performance.timeOrigin") == loaded
    expect(page.get_by_label("Search", exact=True)).to_be_focused()
    return "Zoë Quick"


def find_and_open(page: Page, customer: str) -> None:
    page.get_by_label("Search", exact=True).fill("quick")
    table = page.get_by_role("table")
    expect(table.get_by_role("row")).to_have_count(2)
    expect(table.get_by_role("columnheader", name="Updated")).to_have_attribute(
        "aria-sort", "descending"
    )
    page.get_by_role("link", name=customer).click()
    expect(page.get_by_role("heading", name=customer, level=1)).to_be_visible()
    syncs = page.get_by_role("region", name="History of syncs").get_by_role("row")
    expect(syncs.nth(1)).to_contain_text("Webhook")
    expect(syncs.nth(2)).to_contain_text("Pull")
    events = page.get_by_role("region", name="Webhooks").get_by_role("row")
    expect(events.nth(1)).to_contain_text("customers/update")
    wide = page.viewport_size
    assert wide is not None
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size(wide)


def follow_the_run(page: Page, deployment: Deployment) -> None:
    link = page.get_by_role("region", name="History of syncs").get_by_role("link").first
    address = link.get_attribute("href")
    assert address is not None
    link.click()
    page.wait_for_url(f"{deployment.settings.ui_here}/runs/*", wait_until="commit")
    assert page.url == address
    expect(page.get_by_text(address.rsplit("/", 1)[1][:8]).first).to_be_visible(timeout=SYNC_MS)
    expect(page.get_by_text("apply_webhooks").first).to_be_visible(timeout=SYNC_MS)


def test_the_page_can_be_used_by_keyboard_and_fits_a_phone(
    page: Page, deployment: Deployment, store: SimulatedStore
) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    log_in(page, deployment)
    page.reload()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    for role in ("banner", "main", "search"):
        expect(page.get_by_role(role)).to_have_count(1)
    unnamed = """
      [...document.querySelectorAll("button, a, input:not([type=hidden]), select")].filter(
        (e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label"))).length
    """
    for path in ("customers", "connect"):
        page.goto(f"{deployment.receiver}/dashboard/{path}")
        assert page.evaluate(unnamed) == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        expect(page.get_by_role("heading", level=1)).to_have_count(1)


def test_it_works_without_javascript(browser: Browser, deployment: Deployment) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    log_in(page, deployment)
    page.get_by_label("Search", exact=True).fill("no such customer")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("No customer begins with")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    context.close()
