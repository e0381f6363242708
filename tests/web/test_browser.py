"""The page in a real browser, beside a real node and a real researcher, from the log-in to a finished training.

Needs Debian's package chromium and the Python packages of the extra `dev`. Pictures of every page, light and dark, wide
and narrow, are left in the folder that SCREENSHOTS names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedplug.node import NodeStore
from fedplug.node.datasets.registry import dataset_type

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install -y chromium")

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install -e '.[dev]'")
Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -e '.[dev]'").Axe
expect = playwright.expect

WIDTHS = {"wide": 1280, "narrow": 390}
SCHEMES = ("light", "dark")
STEPS = 30

PLAN = '''\
import time

import numpy as np

from fedplug import DataManager, NumpyTrainingPlan


class Slope(NumpyTrainingPlan):
    """A line through the ages: ill = slope * age."""

    def init_dependencies(self):
        return ["import time", "import numpy as np"]

    def init_model(self, model_args):
        return {"slope": np.zeros(1)}

    def training_data(self):
        return DataManager(self.dataset.table(["age"]), self.dataset.column("ill"))

    def training_step(self, data, target):
        error = data[:, 0] / 100 * self.model()["slope"] - target
        return float((error**2).mean()), {"slope": np.array([2 * error @ data[:, 0] / 100])}
'''
SLOWER = PLAN.replace(
    "        error = data", "        time.sleep(0.05)  # <b>slow</b> & easy to watch\n        error = data"
)
"""The same with one line more: what the owner is to see in the diff."""


class Researcher:
    """A researcher in a process of its own, who does one thing after the other."""

    def __init__(self):
        script = Path(__file__).with_name("researcher.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().strip()

    def begin(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self, line):
        assert self.process.stdout.readline().strip() == f"done {line}"

    def do(self, line):
        self.begin(line)
        self.end(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def pictures():
    """The folder for pictures; None: nobody wants any."""
    if "SCREENSHOTS" not in os.environ:
        return None
    folder = Path(os.environ["SCREENSHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def researcher():
    researcher = Researcher()
    yield researcher
    researcher.close()


@pytest.fixture
def node(researcher, tmp_path):
    """The folder of a node that runs and looks for the researcher, and beside it a folder of data."""
    folder = tmp_path / "node"
    NodeStore.create(folder, name="hospital-a", researcher=researcher.url).close()
    data = tmp_path / "data"
    data.mkdir()
    rows = "".join(f"{20 + number},{number % 5},{number % 2}\n" for number in range(40))
    (data / "patients.csv").write_text(f"AlterJahre,size,ill\n{rows}")  # plans call the first one age
    (data / "scans").mkdir()
    dataset_type("medical").example(data / "scans")
    for number, scanner in enumerate(("philips", "siemens", "philips", "siemens")):
        (data / "scans" / f"s{number}" / "T1.nii.gz").rename(data / "scans" / f"s{number}" / f"T1_{scanner}.nii.gz")
    for name, text in (("first", PLAN), ("second", SLOWER)):
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "fedplug", "node", "-C", str(folder), "start"]
    with (tmp_path / "node.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    yield folder
    process.terminate()
    assert process.wait(60) == 0, (tmp_path / "node.log").read_text()


@pytest.fixture
def ui(node):
    """The link that ``fedplug node ui`` prints."""
    command = [sys.executable, "-m", "fedplug", "node", "-C", str(node), "ui", "--no-open"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if found := re.search(r"http://\S+/login\S+", line):
            yield found[0]
            break
    process.terminate()
    assert process.wait(60) == 0
    process.stdout.close()


class Tour:
    """Goes through the pages as a person does, and complains like one."""

    def __init__(self, context, base, pictures):
        self.context = context
        self.base = base
        self.errors = []
        self.pictures = pictures
        self.page = context.new_page()
        self.page.set_default_timeout(30_000)
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def follow(self):
        """Wait until the live parts of the page are followed."""
        self.page.wait_for_selector("html[data-following]")

    def look(self, name):
        """Look at a page light and dark, wide and narrow: take pictures, and have axe-core find what bars anybody.

        Axe-core, which takes most of the time, looks at each scheme and at each width once, and not at all four.
        """
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme)
            for width, pixels in WIDTHS.items():
                self.page.set_viewport_size({"width": pixels, "height": 900})
                if self.pictures:
                    self.page.screenshot(path=self.pictures / f"{name}-{scheme}-{width}.png", full_page=True)
                # By a locator, which waits: a page that shows progress may be loading itself anew.
                aside = self.page.locator("html").evaluate("html => html.scrollWidth - window.innerWidth")
                assert aside <= 0, f"{name} is {aside} pixels too wide for {pixels}"
                if (scheme, width) not in {("light", "wide"), ("dark", "narrow")}:
                    continue
                found = Axe().run(self.page).response["violations"]
                grave = [f"{each['id']}: {each['help']} {[node['html'] for node in each['nodes']]}" for each in found
                         if each["impact"] in {"serious", "critical"}]  # fmt: skip
                assert grave == [], f"{name}, {scheme}, {width}"
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": WIDTHS["wide"], "height": 900})

    def pictures_of(self, name):
        """Take a picture of something that does not stand still for long."""
        if self.pictures:
            self.page.screenshot(path=self.pictures / f"{name}.png", full_page=True)

    def press(self, key="Enter", *, on):
        """Go to something by the Tab key alone, see that the eye can follow, and press a key there."""
        for _ in range(80):
            self.page.keyboard.press("Tab")
            name, outline = self.page.evaluate(
                "() => { const here = document.activeElement; const label = here.labels && here.labels[0];"
                " return [(label || here).innerText || here.ariaLabel || here.value || '',"
                " getComputedStyle(here).outlineStyle]; }"
            )
            if re.fullmatch(on, name.strip()):
                assert outline != "none", f"nothing shows that {name!r} has the focus"
                return self.page.keyboard.press(key)
        raise AssertionError(f"the Tab key does not reach {on!r}")

    def menu(self, name):
        self.page.get_by_role("navigation", name="Main").get_by_role("link", name=re.compile(f"^{name}")).click()
        expect(self.page.get_by_role("heading", level=1)).to_have_text(name)


def log_in(tour, link):
    """By the keyboard: the button has the focus already."""
    page = tour.page
    page.goto(tour.base)
    tour.look("log-in-without-link")
    page.goto(link)
    tour.look("log-in")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    assert "token" not in page.url
    tour.follow()
    tour.look("overview-empty")


def add_data(tour, folder):
    page = tour.page
    tour.menu("Data sets")
    tour.look("data-sets-empty")
    page.get_by_role("link", name="Add a data set").click()
    page.get_by_label("Path on this machine").fill(str(folder))
    page.get_by_role("button", name="Go on").click()
    tour.look("data-sets-choose")
    page.get_by_role("link", name="patients.csv").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("patients")
    page.get_by_role("button", name="Add the data set").click()
    assert page.get_by_label("Tags").evaluate("field => field.validity.valueMissing")
    page.get_by_label("Tags").fill("breast, 2024")
    page.get_by_label("size", exact=True).uncheck()
    page.get_by_label("Name of AlterJahre in plans").fill("age")
    page.get_by_label("ill is the target").check()
    tour.look("data-sets-describe")
    page.get_by_role("button", name="Add the data set").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("patients")
    expect(page.get_by_role("status").first).to_contain_text("is registered")
    expect(page.get_by_role("row", name=re.compile("^age "))).to_contain_text("AlterJahre")
    tour.look("data-set")
    tour.menu("Data sets")
    tour.look("data-sets")


def add_a_folder_by_keyboard(tour, folder):
    """A folder, whose type cannot be told from its looks, and whose modality has two names: one for each scanner."""
    page = tour.page
    page.goto(f"{tour.base}/data-sets/add?folder={folder}")
    tour.press(on="Use this folder as a data set")
    expect(page.get_by_role("status").first).to_contain_text("What kind of data this folder holds cannot be told")
    tour.look("folder-of-no-type")
    tour.press("m", on="Type[^A-Z]*")
    assert page.get_by_label("Type").input_value() == "medical"
    tour.press(on="Look")
    for number in (1, 2):
        name = page.get_by_label(f"Modality {number}: name in plans")
        expect(name).to_have_value(("T1_philips", "T1_siemens")[number - 1])
        name.focus()
        page.keyboard.press("Control+A")
        page.keyboard.type("T1")
    tour.press(on="Look again")
    expect(page.get_by_role("checkbox", name="T1", exact=True)).to_be_checked()
    expect(page.get_by_role("group", name="Modalities")).to_be_visible()
    tour.look("folder-describe")
    page.get_by_label("Tags").fill("mri")
    page.get_by_role("button", name="Add the data set").click()
    expect(page.get_by_text("modalities", exact=False).first).to_be_visible()
    expect(page.get_by_text("T1=T1_philips|T1_siemens")).to_be_visible()


def change_data(tour, file):
    """What is said of a data set is changed; its files are checked, have changed, and are accepted."""
    page = tour.page
    page.get_by_role("link", name="Change").click()
    page.get_by_label("Description").fill("Scans of 2024.")
    tour.look("data-set-edit-words")
    page.get_by_role("button", name="Change columns, target and names").click()
    expect(page.get_by_label("Description")).to_have_value("Scans of 2024.")
    page.get_by_label("Name of age in plans").fill("years")
    tour.look("data-set-edit")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").first).to_contain_text("Data set 'scans' is changed.")
    expect(page.get_by_role("row", name=re.compile("^years "))).to_be_visible()
    page.get_by_role("button", name="Check the files").click()
    expect(page.get_by_role("status").first).to_contain_text("are as they were when it was added")
    file.write_text(file.read_text().replace("41", "44"))
    page.get_by_role("button", name="Check the files").click()
    expect(page.get_by_role("alert").first).to_contain_text("The content has changed since it was added")
    tour.look("data-set-changed")
    page.get_by_role("button", name="Accept the change").click()
    expect(page.get_by_role("status").first).to_contain_text("is changed.")
    expect(page.get_by_text("unchanged", exact=True)).to_be_visible()


def approve_by_keyboard(tour, researcher, file):
    """A first plan arrives while the page is open, and is approved without a mouse."""
    page = tour.page
    tour.menu("Training plans")
    tour.follow()
    expect(page.get_by_text("No training plan waits for your decision")).to_be_visible()
    tour.look("plans-empty")
    researcher.do(f"plan {file}")
    researcher.do("find breast")
    researcher.do("ask To see whether it works.")
    waiting = page.get_by_role("region", name="Waiting for you")
    expect(waiting.get_by_role("link", name="Slope")).to_be_visible()  # nobody has loaded the page again
    expect(page.get_by_text("To see whether it works.")).to_be_visible()
    expect(page.locator("#news")).to_contain_text("The training plan Slope waits for your decision.")
    expect(page.get_by_role("link", name="Training plans 1 waiting")).to_be_visible()
    tour.look("plans")
    page.reload()
    tour.follow()
    tour.press(on="Skip to the content")
    assert page.evaluate("document.activeElement.id") == "main"
    tour.press(on="Slope")
    expect(page.get_by_role("heading", level=1)).to_have_text("Slope")
    expect(page.get_by_text("nothing to compare it with")).to_be_visible()
    tour.press("F", on="Note.*")
    page.keyboard.type("ine.")
    tour.press(on="Approve")
    expect(page.get_by_role("status").first).to_contain_text("Slope is approved for all data sets")


def read_and_approve_the_changes(tour, researcher, file):
    """A second version arrives with a request to train, is refused, read, and approved."""
    page = tour.page
    tour.menu("Overview")
    tour.follow()
    researcher.do(f"plan {file}")
    researcher.do("try waits for the approval")
    waiting = page.get_by_role("region", name="Waiting for you")
    waiting.get_by_role("link", name="Slope").click()
    changes = page.get_by_role("region", name="Changes since the version that was approved last")
    expect(changes.locator("tr.removed")).to_have_count(0)
    expect(changes.locator("tr.added")).to_have_count(1)
    expect(changes.locator("tr.added")).to_contain_text("+added")
    expect(changes.locator("tr.added")).to_contain_text("time.sleep(0.05)  # <b>slow</b> & easy to watch")
    expect(page.get_by_role("row", name=re.compile("call time.sleep"))).to_be_visible()
    tour.look("plan-changes")
    page.get_by_role("link", name="The whole text").click()
    expect(page.get_by_role("region", name="All that is executed").locator("tr")).not_to_have_count(2)
    tour.look("plan-text")
    page.get_by_label("For", exact=True).select_option("patients")
    page.get_by_label("Last day").fill("2020-01-01")
    page.locator("form[action*=decide]").evaluate("form => form.noValidate = true")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_label("Last day")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Last day")).to_have_accessible_description(re.compile("is past"))
    tour.look("plan-wrong-date")
    page.get_by_label("Last day").fill((datetime.now(UTC) + timedelta(days=30)).date().isoformat())
    page.get_by_label("Note").fill("Slow, but harmless.")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status").first).to_contain_text("Slope is approved for data set 'patients', until")
    tour.look("plan-approved")


def watch_the_training(tour, researcher):
    page = tour.page
    tour.menu("Trainings")
    tour.follow()
    researcher.begin("run 1")
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("max", str(STEPS))
    seen = [page.wait_for_function(
        "least => { const bar = document.querySelector('progress'); return bar && bar.value >= least && bar.value; }",
        arg=least,
    ).json_value() for least in (1, STEPS // 2)]  # fmt: skip
    assert 0 < seen[0] <= seen[1] <= STEPS
    tour.pictures_of("training")
    past = page.get_by_role("region", name="Trainings so far")
    expect(past.get_by_role("row").nth(1)).to_contain_text("finished")
    expect(page.locator("#news")).to_contain_text("Round 1 trained")
    researcher.end("run 1")
    expect(past).to_contain_text("40 samples, 30 steps")
    expect(past).to_contain_text("refused")
    expect(bar).to_have_count(0)
    tour.look("trainings")


def look_at_the_rest(tour, node):
    page = tour.page
    tour.menu("Overview")
    tour.look("overview")
    tour.menu("Audit")
    expect(page.get_by_role("table").get_by_text("plan-approved")).to_have_count(2)
    page.locator("details").first.locator("summary").click()
    tour.look("audit")
    page.get_by_role("button", name="Verify").click()
    expect(page.get_by_role("status").first).to_contain_text("are as they were written")
    tour.menu("Settings")
    tour.look("settings")
    page.get_by_label("A researcher's public key").fill("aa" * 32)
    page.get_by_role("button", name="Trust this key").click()
    expect(page.get_by_role("region", name="Researchers that this node trusts")).to_contain_text("zmq://")
    tour.look("settings-keys")
    page.get_by_role("button", name="no more").click()
    expect(page.get_by_role("status").first).to_contain_text("is not trusted any more")
    rules = page.get_by_label("Rules, in TOML")
    rules.fill(rules.input_value() + "\n[training]\nround = 1\n")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert").first).to_contain_text("must be corrected; nothing was saved")
    tour.look("settings-wrong")
    tour.menu("Settings")
    page.get_by_role("button", name="Look", exact=True).click()
    expect(page.get_by_role("region", name="What was found")).to_contain_text("entries, all as they were written")
    tour.look("settings-health")
    tour.menu("Data sets")
    page.get_by_role("link", name="patients").click()
    page.get_by_role("link", name="Remove").click()
    tour.look("data-set-remove")
    page.get_by_role("link", name="Keep it").click()
    page.goto(f"{tour.base}/nothing")
    tour.look("not-found")
    page.goto(tour.base)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You need a link to log in")).to_be_visible()


def test_a_hospital_from_the_log_in_to_a_finished_training(browser, node, ui, researcher, pictures, tmp_path):
    tour = Tour(browser.new_context(reduced_motion="reduce"), ui.split("/login")[0], pictures)
    log_in(tour, ui)
    add_data(tour, tmp_path / "data")
    add_a_folder_by_keyboard(tour, tmp_path / "data" / "scans")
    change_data(tour, tmp_path / "data" / "scans" / "demographics.csv")
    approve_by_keyboard(tour, researcher, tmp_path / "first.py")
    read_and_approve_the_changes(tour, researcher, tmp_path / "second.py")
    watch_the_training(tour, researcher)
    look_at_the_rest(tour, node)
    expected = ("the server responded with a status of 400", "the server responded with a status of 404")
    assert [error for error in tour.errors if not any(text in error for text in expected)] == []


@pytest.mark.slow
def test_everything_but_the_live_parts_works_without_scripts(browser, node, ui, researcher, tmp_path):
    tour = Tour(browser.new_context(java_script_enabled=False), ui.split("/login")[0], None)
    page = tour.page
    page.goto(ui)
    page.get_by_role("button", name="Log in").click()
    tour.menu("Data sets")
    page.get_by_role("link", name="Add a data set").click()
    page.get_by_label("Path on this machine").fill(str(tmp_path / "data"))
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("link", name="patients.csv").click()
    page.get_by_label("Tags").fill("breast")
    page.get_by_label("Name of AlterJahre in plans").fill("age")
    page.get_by_role("button", name="Look again").click()
    expect(page.get_by_label("Name of AlterJahre in plans")).to_have_value("age")
    page.get_by_role("button", name="Add the data set").click()
    expect(page.get_by_role("status").first).to_contain_text("is registered")
    page.get_by_role("link", name="Change").click()
    page.get_by_label("Name", exact=True).press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("Nothing is different.")
    page.get_by_role("link", name="Change").click()
    page.get_by_role("button", name="Change columns, target and names").click()
    page.get_by_label("ill is the target").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").first).to_contain_text("is changed")
    page.get_by_role("button", name="Check the files").click()
    expect(page.get_by_role("status").first).to_contain_text("are as they were when it was added")
    for line in (f"plan {tmp_path / 'first.py'}", "find breast", "ask Please."):
        researcher.do(line)
    tour.menu("Training plans")
    page.get_by_role("region", name="Waiting for you").get_by_role("link", name="Slope").click()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("status").first).to_contain_text("Slope is approved")
    researcher.do("run 1")
    tour.menu("Trainings")
    expect(page.get_by_role("region", name="Trainings so far")).to_contain_text("40 samples, 30 steps")
    tour.menu("Settings")
    page.get_by_role("button", name="Check only").click()
    expect(page.get_by_role("status").first).to_contain_text("These rules can be used")
    tour.menu("Audit")
    page.get_by_role("button", name="Verify").click()
    expect(page.get_by_role("status").first).to_contain_text("are as they were written")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You need a link to log in")).to_be_visible()
    assert tour.errors == []
