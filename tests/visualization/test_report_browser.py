"""The report in a real browser, as a user meets it: from file://, with mouse and keyboard.

Needs the package playwright and an installed Chromium or Chrome (Debian: apt install chromium).
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from qiml.visualization.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    """A running browser; tests skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a report; at the end see that it asked for nothing and complained about nothing."""

    @contextmanager
    def opened(path, scheme="light") -> Iterator:
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        yield page
        page.close()
        assert complaints == []
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]

    return opened


def listed(page):
    """Frame ids of the list, in order."""
    return page.locator("#g-list b").all_inner_texts()


def chosen(page):
    return page.locator('#g-list [aria-selected="true"] b').inner_text()


def test_charts_are_drawn_and_hover_tells_values(open_page, make_run):
    runs = [make_run("first", noise=0.2), make_run("second")]
    with open_page(write_report(runs)) as page:
        for section, count in (("training", 1), ("precision", 4), ("depth", 4)):
            page.locator(f"#{section}").scroll_into_view_if_needed()
            charts = page.locator(f"#{section} .chart")
            assert charts.count() == count
            for i in range(count):
                charts.nth(i).scroll_into_view_if_needed()
                charts.nth(i).locator(".main-svg").first.wait_for()
        bars = page.locator("#depth .chart").first
        bars.scroll_into_view_if_needed()
        bars.locator(".bars .point").first.hover(force=True)
        assert "objects matched" in bars.locator(".hoverlayer").text_content()
        page.select_option("#pr-class", "Pedestrian")
        assert page.locator("#precision .chart").count() == 4


def test_sorting_and_filters_change_the_list(open_page, make_run):
    with open_page(write_report([make_run("first", frames=8)])) as page:
        by_error = listed(page)
        page.select_option("#g-sort", "id")
        assert listed(page) == sorted(by_error) and listed(page) != by_error
        errors = [t.split(" m")[0] for t in page.locator("#g-list .facts").all_inner_texts()]
        page.select_option("#g-sort", "error")
        assert listed(page) == by_error
        shown = [float(t.split(" m")[0]) for t in page.locator("#g-list .facts").all_inner_texts()]
        assert shown == sorted(map(float, errors), reverse=True)

        page.select_option("#g-show", "missed")
        facts = page.locator("#g-list .facts").all_inner_texts()
        assert 0 < len(facts) < 8 and not any("· 0 missed" in text for text in facts)
        page.click("#g-reset")
        assert len(listed(page)) == 8
        page.fill("#g-search", "07")
        assert listed(page) == ["000007"]
        page.fill("#g-search", "none")
        assert listed(page) == [] and "No frame fits" in page.inner_text("#g-status")
        page.click("#g-reset")

        status = page.inner_text("#g-status")
        assert status.startswith("8 of 8 frames") and ": 0 of" not in status
        page.locator("#g-score").fill("1")
        status = page.inner_text("#g-status")
        assert ": 0 of" in status and "0 false positives" in status


def test_hover_tells_values_in_both_views(open_page, make_run):
    with open_page(write_report([make_run("first")])) as page:
        page.locator("#gallery").scroll_into_view_if_needed()
        for view in ("#g-bev", "#g-image"):
            box = page.locator(f"{view} .box.detection.found").last
            key = box.get_attribute("data-item")
            box.locator(".hit").hover(force=True)
            lit = page.locator(".box.lit.detection")
            text = page.inner_text("#tooltip")
            assert page.locator("#tooltip").is_visible()
            assert "depth" in text and "score 0." in text and "3D IoU" in text
            assert lit.count() == 2  # the same one in both views
            row = page.locator("#g-objects tr.lit")
            assert row.get_attribute("data-item") == lit.first.get_attribute("data-item")
            assert view == "#g-image" or row.get_attribute("data-item") == key
        page.mouse.move(5, 5)
        assert page.locator("#tooltip").is_hidden() and page.locator(".lit").count() == 0


def test_keyboard(open_page, make_run):
    with open_page(write_report([make_run("first", frames=50)])) as page:
        first = listed(page)
        assert len(first) == 40
        page.focus("#g-list")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert chosen(page) == first[2]
        assert page.inner_text("#g-frame").startswith(first[2])
        active = page.get_attribute("#g-list", "aria-activedescendant")
        assert page.locator(f"#{active}").inner_text().startswith(first[2])
        page.keyboard.press("End")
        assert page.inner_text("#g-page") == "page 2 of 2" and len(listed(page)) == 10
        page.keyboard.press("Home")
        page.focus("#g-on")
        page.keyboard.press("Enter")
        assert chosen(page) == first[1]
        page.keyboard.press("ArrowLeft")
        assert chosen(page) == first[0]
        page.focus("#g-search")
        page.keyboard.type("1")
        page.keyboard.press("ArrowLeft")  # moves in the text, not in the list
        assert chosen(page) == listed(page)[0]
        page.focus("#theme")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        page.locator("#g-objects tbody tr").first.focus()
        assert page.locator(".box.lit").count() >= 2


def test_every_control_is_reached_by_tab_and_has_a_name(open_page, make_run):
    with open_page(write_report([make_run("first"), make_run("second")])) as page:
        nameless = page.evaluate(
            """[...document.querySelectorAll('button, select, input, a, [tabindex="0"]')]
            .filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length"""
        )
        assert nameless == 0
        reached = set()
        for _ in range(200):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert reached >= {
            "theme",
            "g-run",
            "g-sort",
            "g-show",
            "g-score",
            "g-list",
            "g-on",
            "g-fit",
        }


def test_dark_and_light(open_page, make_run):
    path = write_report([make_run("first")])
    background = "getComputedStyle(document.body).backgroundColor"
    with open_page(path, "dark") as page:
        dark = page.evaluate(background)
        page.click("#theme")
        assert page.evaluate(background) != dark
        assert page.get_attribute("#theme", "aria-pressed") == "false"
    with open_page(path, "light") as page:
        assert page.evaluate(background) != dark


def test_another_run_shows_the_same_frame(open_page, make_run):
    runs = [make_run("first", noise=0.2), make_run("second", noise=0.01)]
    with open_page(write_report(runs)) as page:
        page.focus("#g-list")
        page.keyboard.press("ArrowDown")
        frame = chosen(page)
        before = page.locator("#g-objects").inner_text()
        page.select_option("#g-run", label="second")
        assert chosen(page) == frame
        assert page.locator("#g-objects").inner_text() != before
        page.select_option("#g-sort", "gain")
        gains = [t.split(" m")[0] for t in page.locator("#g-list .facts").all_inner_texts()]
        values = [float(gain.replace("−", "-")) for gain in gains]
        assert values == sorted(values, reverse=True) and values[-1] < -0.5


def test_bird_s_eye_view_zooms(open_page, make_run):
    with open_page(write_report([make_run("first")])) as page:
        view = page.locator("#g-bev svg")
        page.locator("#gallery").scroll_into_view_if_needed()
        fitted = view.get_attribute("viewBox")
        page.click("#g-nearer")
        assert float(view.get_attribute("viewBox").split()[3]) < float(fitted.split()[3])
        page.click("#g-fit")
        assert view.get_attribute("viewBox") == fitted
        view.hover(position={"x": 100, "y": 50})
        assert "x −" in page.inner_text("#g-position") and "z " in page.inner_text("#g-position")


def test_boxes_lie_where_python_projects_them(open_page, make_run):
    """The label's outline in the page against its 2D box, which Boxes3D.project made."""
    with open_page(write_report([make_run("first", noise=0)])) as page:
        page.select_option("#g-sort", "id")
        outlines = page.evaluate(
            """[...document.querySelectorAll('#g-image .box.label .hit')].map((hit) =>
            ['x', 'y', 'width', 'height'].map((name) => Number(hit.getAttribute(name))))"""
        )
        rows = page.evaluate(
            "JSON.parse(document.getElementById('content').textContent).galleries[0].frames.objects[0]"
        )
        expected = sorted(row[9:] for row in rows)
        found = sorted([x, y, x + width, y + height] for x, y, width, height in outlines)
        assert len(found) == len(expected) == 3
        for box, truth in zip(found, expected, strict=True):
            # Only the outline of the whole box: labels end at the image's border, and are rounded.
            clipped = [
                min(max(box[0], 0), 1242),
                max(box[1], 0),
                min(box[2], 1242),
                min(box[3], 375),
            ]
            assert clipped == pytest.approx(truth, abs=2.5)


def test_hostile_names_run_nothing(open_page, make_run):
    name = "</script><script>window.hacked=1</script>"
    run = make_run(f"x{name}/<img src=x onerror=hacked=1>", ids=[f"<b>{i}\"'" for i in range(3)],
                   metrics={"<img src=x onerror=hacked=1>": 1.0, "loss<b>bold</b>": 1.0})  # fmt: skip
    with open_page(write_report([run])) as page:
        page.locator("#training").scroll_into_view_if_needed()
        for index in range(page.locator("#metric-group option").count()):
            page.select_option("#metric-group", index=index)
            page.locator("#training .main-svg").first.wait_for()
        page.select_option("#metric-group", label="losses")
        titles = page.locator("#training .gtitle")
        titles.nth(1).wait_for()
        assert titles.nth(1).text_content() == "loss<b>bold</b>"
        assert page.evaluate("window.hacked") is None
        assert sorted(listed(page)) == [f"<b>{i}\"'" for i in range(3)]
        assert page.locator("h1").inner_text() == "<img src=x onerror=hacked=1>"


def test_two_thousand_frames(open_page, make_run, record_property):
    """Opens in under 3 s, in under 30 MB; only a page of the list is in the document."""
    path = write_report([make_run("large", frames=2000, objects=8)])
    size = path.stat().st_size
    start = time.perf_counter()
    with open_page(path) as page:
        page.locator("#g-list li").first.wait_for()
        seconds = time.perf_counter() - start
        print(f"2,000 frames: {size / 1e6:.1f} MB, open in {seconds:.2f} s")
        assert seconds < 3 and size < 30e6
        assert page.locator("#g-list li").count() == 40
        start = time.perf_counter()
        page.select_option("#g-sort", "missed")
        print(f"sorted in {time.perf_counter() - start:.2f} s")
        assert page.inner_text("#g-page") == "page 1 of 50"


def test_the_legend_names_the_classes_that_were_detected(open_page, make_run):
    """Not the first ones of the data set."""
    run = make_run("first")
    for path in run.glob("kitti_results/*/data/*.txt"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if line.startswith("Pedestrian")))
    with open_page(write_report([run])) as page:
        shown = page.locator("#g-legend li:not([class])").all_inner_texts()
        assert shown == ["Pedestrian"]
