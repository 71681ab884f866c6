"""The page in Chromium, opened from the disk and offline: same answers as Python, no way out."""

import base64
import hashlib
import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from picture_variants import dicom, readable, refused
from PIL import Image

from oct_jax.data.phantom import phantom_scan
from oct_jax.data.readers import decode_scan, read_scan
from oct_jax.data.volumes import open_volume
from oct_jax.task import KERMANY

PHANTOMS = 40
REAL = 4  # of each class
WITHIN, HEATMAP_WITHIN = 1e-5, 1e-3
RESULTS = (
    """self.viewer.queue.entries.map(({ name, result, frames }) => ({ name, result, frames }))"""
)


@pytest.fixture
def page(browser, viewer):
    """The page, started and without a scan."""
    if browser.opened != viewer:
        status = browser.open(viewer)
        assert status.startswith("Ready. This browser passed the self-test"), status
    browser("evaluate", script="self.viewer.queue.clear()")
    yield browser
    log = browser("log")
    assert log["console"] == []
    assert all(url.startswith(("file:", "blob:")) for url in log["requests"])


def write(folder: Path, files: dict[str, bytes]) -> list[str]:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in files]


def results(page) -> dict[str, dict]:
    return {entry["name"]: entry for entry in page("evaluate", script=RESULTS)}


def shown(page, name: str, part: str) -> np.ndarray:
    """`grey` or `heatmap` of a scan, as the page draws it."""
    script = f"""(async () => {{
      const {{ queue }} = self.viewer;
      const {{ key, files }} = queue.entries.find(({{ name }}) => name === {json.dumps(name)});
      const shown = await queue.client.request("show", {{ key, files, index: 0 }});
      const bytes = new Uint8Array(shown.{part}.buffer);
      let text = "";
      for (const byte of bytes) text += String.fromCharCode(byte);
      return [shown.height, shown.width, btoa(text)];
    }})()"""
    height, width, encoded = page("evaluate", script=script)
    dtype = np.float32 if part == "heatmap" else np.uint8
    return np.frombuffer(base64.b64decode(encoded), dtype).reshape(height, width)


def assert_same_answers(page, classifier, paths: list[Path]) -> None:
    answers = results(page)
    predictions = classifier.predict(paths)
    for path, prediction in zip(paths, predictions, strict=True):
        result = answers[path.name]["result"]
        assert result["label"] == prediction.label
        assert result["referral"] == prediction.decision.referral
        assert result["set"] == list(prediction.decision.classes)
        assert result["outlier"] == prediction.decision.is_outlier
        assert np.abs(np.array(result["probabilities"]) - prediction.probabilities).max() < WITHIN
        if prediction.decision.no_retina:
            assert result["reason"] == "noRetina"
    for path, explanation in zip(paths[::5], classifier.explain(paths[::5]), strict=True):
        difference = np.abs(shown(page, path.name, "heatmap") - explanation.heatmap)
        assert difference.max() < HEATMAP_WITHIN


def test_phantoms_get_pythons_answers(page, classifier, tmp_path):
    paths = []
    for number in range(PHANTOMS):
        name = KERMANY.classes[number % 4]
        scan = phantom_scan(name, np.random.default_rng(900 + number)).image
        paths.append(tmp_path / f"{number}-{name}.png")
        Image.fromarray(scan).save(paths[-1])
    page("choose", files=[str(path) for path in paths])
    assert_same_answers(page, classifier, paths)


def test_real_scans_get_pythons_answers(page, classifier, real_scans):
    paths = [
        path for name in KERMANY.classes for path in sorted((real_scans / name).iterdir())[:REAL]
    ]
    page("choose", files=[str(path) for path in paths])
    assert_same_answers(page, classifier, paths)
    for path in paths[::5]:
        np.testing.assert_array_equal(shown(page, path.name, "grey"), read_scan(path))


def test_every_kind_of_picture_has_pythons_grey_levels(page, tmp_path):
    files = readable()
    assert len(files) >= 50
    page("choose", files=write(tmp_path, files))
    wrong = {}
    for name, entry in results(page).items():
        expected = decode_scan(files[name], name)
        if entry["result"].get("refusal"):
            wrong[name] = entry["result"]["refusal"]
            continue
        levels = shown(page, name, "grey")
        if levels.shape != expected.shape or (levels != expected).any():
            wrong[name] = np.abs(levels.astype(int) - expected).max()
    assert not wrong


def test_what_cannot_be_read_exactly_is_refused_and_stops_no_other(page, tmp_path):
    files = refused()
    good = readable()["grey-90.jpg"]
    page(
        "choose",
        files=write(tmp_path, {n: data for n, (data, _) in files.items()} | {"z.jpg": good}),
    )
    answers = results(page)
    assert "label" in answers["z.jpg"]["result"]
    codes = {name: answers[name]["result"]["refusal"]["code"] for name in files}
    assert codes == {name: code for name, (_, code) in files.items()}
    page(
        "evaluate",
        script="self.viewer.list.select("
        "self.viewer.queue.entries.find(({ name }) => name === 'empty.png'))",
    )
    assert "This file gives no answer: it is empty." in page(
        "evaluate", script="document.body.innerText"
    )


def frames(count: int) -> np.ndarray:
    classes = [KERMANY.classes[number % 4] for number in range(count)]
    scans = [phantom_scan(name, np.random.default_rng(i)).image for i, name in enumerate(classes)]
    return np.stack([scan[:400, :480] for scan in scans])


def test_pages_of_a_tiff_are_one_eye(page, classifier, tmp_path):
    path = tmp_path / "eye.tif"
    pages = [Image.fromarray(frame) for frame in frames(6)]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    page("choose", files=[str(path)])
    entry = results(page)["eye.tif"]
    volume = open_volume(path)
    predictions = classifier.predict([volume.read(index) for index in range(len(volume))])
    for frame, prediction in zip(entry["frames"], predictions, strict=True):
        assert frame["answer"]["referral"] == prediction.decision.referral
    middle = [prediction.probabilities for prediction in predictions[1:5]]
    mean = np.mean(middle, axis=0)
    np.testing.assert_allclose(entry["result"]["probabilities"], mean, atol=WITHIN)
    assert page("evaluate", script="document.querySelectorAll('.strip button').length") == 6


@pytest.mark.parametrize(
    ("bits", "colour"), [(8, "MONOCHROME2"), (12, "MONOCHROME2"), (16, "MONOCHROME1")]
)
def test_frames_of_an_uncompressed_dicom_file(page, tmp_path, bits, colour):
    images = frames(3).astype(np.uint16) << (bits - 8)
    stored = images.astype(np.uint8) if bits == 8 else images
    file = dicom(stored, bits=bits, colour=colour)
    page("choose", files=write(tmp_path, {"eye.dcm": file}))
    entry = results(page)["eye.dcm"]
    assert [frame["answer"]["label"] in KERMANY.classes for frame in entry["frames"]] == [True] * 3
    full = 2**bits - 1
    grey = (images[0].astype(int) * 255 + full // 2) // full
    expected = 255 - grey if colour == "MONOCHROME1" else grey
    np.testing.assert_array_equal(shown(page, "eye.dcm", "grey"), expected)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"syntax": "1.2.840.10008.1.2.4.90"}, "dicomSyntax"),
        ({"kind": "1.2.840.10008.5.1.4.1.1.77.1.5.1"}, "dicomClass"),
        ({"colour": "RGB"}, "dicomKind"),
    ],
)
def test_other_dicom_files_are_refused(page, tmp_path, changes, code):
    page("choose", files=write(tmp_path, {"other.dcm": dicom(frames(1), bits=8, **changes)}))
    assert results(page)["other.dcm"]["result"]["refusal"]["code"] == code


def test_a_folder_of_numbered_pictures_is_one_eye(page, tmp_path):
    jpeg = readable()["grey-90.jpg"]
    write(tmp_path, {f"top/eye/{number}.jpg": jpeg for number in (10, 9, 8, 2, 1)})
    write(tmp_path, {"top/alone.jpg": jpeg, "top/notes.txt": b"no scan"})
    page("choose", folder=str(tmp_path / "top"))
    entries = results(page)
    assert sorted(entries) == ["top/alone.jpg", "top/eye"]
    assert len(entries["top/eye"]["frames"]) == 5


def test_keyboard_filters_and_table(page, tmp_path):
    files = {f"patient-{number}.jpg": readable()["grey-90.jpg"] for number in range(3)}
    page("choose", files=write(tmp_path, files | {"empty.jpg": b""}))
    selected = "self.viewer.list.selected.name"
    page("evaluate", script="document.querySelector('#list').focus()")
    page("press", key="Home")
    first = page("evaluate", script=selected)
    page("press", key="ArrowDown")
    assert page("evaluate", script=selected) != first
    page("press", key="ArrowUp")
    assert page("evaluate", script=selected) == first
    page("click", selector="#filters button:has-text('Unreadable')")
    assert page("evaluate", script="document.querySelectorAll('#list li').length") == 1
    page("click", selector="#filters button:has-text('All')")

    page("click", selector="#csv")
    assert "names, dates of birth" in page(
        "evaluate", script="document.querySelector('dialog').innerText"
    )
    table = Path(page("download", selector="dialog button[value=without]")).read_text("utf-8-sig")
    assert "patient-" not in table
    assert len(table.splitlines()) == 5
    page("click", selector="#csv")
    named = Path(page("download", selector="dialog button[value=with]")).read_text("utf-8-sig")
    assert "patient-2.jpg" in named


@pytest.mark.parametrize(("width", "height", "dark"), [(390, 844, False), (1280, 800, True)])
def test_it_fits_and_is_accessible(browser, viewer, tmp_path, width, height, dark):
    browser.open(viewer, width, height, dark=dark)
    pages = [Image.fromarray(frame) for frame in frames(5)]
    pages[0].save(
        tmp_path / "a-volume-with-quite-a-long-name-for-a-phone.tif",
        save_all=True,
        append_images=pages[1:],
    )
    browser("choose", files=[*map(str, tmp_path.iterdir()), *write(tmp_path, refused_few())])
    for entry in range(3):  # the volume, the unreadable file, the scan
        browser("evaluate", script=f"self.viewer.list.select(self.viewer.queue.entries[{entry}])")
        browser("settle")
        assert browser("evaluate", script="document.documentElement.scrollWidth") <= width
        serious = [v for v in browser("axe") if v["impact"] in ("serious", "critical")]
        assert not serious


def refused_few() -> dict[str, bytes]:
    return {"empty.jpg": b"", "scan.jpg": readable()["grey-90.jpg"]}


def test_what_matters_is_seen_without_scrolling_on_a_laptop(page, tmp_path):
    page("choose", files=write(tmp_path, {"scan.jpg": readable()["grey-90.jpg"]}))
    page("settle")
    for selector in (".verdict h2", ".reason", ".view", ".controls", ".share", ".set", "#use"):
        script = f"document.querySelector('{selector}').getBoundingClientRect().bottom"
        assert page("evaluate", script=script) <= 800, selector


def changed(viewer: Path, out: Path, old: str, new: str) -> Path:
    text = viewer.read_text()
    assert text.count(old) >= 1
    out.write_text(text.replace(old, new, 1))
    return out


def test_a_changed_model_is_refused(browser, viewer, tmp_path):
    text = viewer.read_text()
    start = text.index('id="asset-model">') + 5000
    other = "A" if text[start] != "A" else "B"
    page = tmp_path / "changed.html"
    page.write_text(text[:start] + other + text[start + 1 :])
    status = browser.open(page)
    assert status.startswith("This page gives no answers here")
    assert browser("evaluate", script="document.querySelector('#main')") is None


def test_a_changed_script_does_not_run(browser, viewer, tmp_path):
    page = changed(viewer, tmp_path / "a.html", "const MOST_ZOOM = 16", "const MOST_ZOOM = 17")
    status = browser.open(page, wait=False)
    assert "the file is damaged" in status


def test_another_models_golden_answers_are_noticed(browser, bundle, classifier, tmp_path):
    from oct_jax.export.golden import make_golden
    from oct_jax.export.viewer import build_viewer

    golden = make_golden(classifier)
    golden.answers[0]["logits"][0] += 0.5
    page = tmp_path / "wrong.html"
    page.write_text(
        build_viewer((bundle / "classifier.onnx").read_bytes(), classifier, golden, "wrong")
    )
    status = browser.open(page)
    assert "The self-test failed" in status
    assert browser("evaluate", script="document.querySelector('#main')") is None


class Listener(http.server.BaseHTTPRequestHandler):
    heard: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.heard.append(self.path)
        self.send_response(204)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *words):
        pass


def test_nothing_leaves_the_page(browser, viewer, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    browser.open(viewer, offline=False)
    browser("choose", files=write(tmp_path, {"scan.jpg": readable()["grey-90.jpg"]}))
    worker = f"""fetch('{address}/worker').catch(() => 0).then(() => postMessage(1))"""
    browser(
        "evaluate",
        script=f"""(async () => {{
          await fetch('{address}/fetch').catch(() => 0);
          navigator.sendBeacon('{address}/beacon', 'x');
          new Image().src = '{address}/image';
          new EventSource('{address}/events');
          new WebSocket('{address.replace("http", "ws")}/socket');
          document.body.append(Object.assign(document.createElement('iframe'),
            {{ src: '{address}/frame' }}));
          document.body.append(Object.assign(document.createElement('link'),
            {{ rel: 'stylesheet', href: '{address}/style' }}));
          const form = Object.assign(document.createElement('form'),
            {{ method: 'post', action: '{address}/form' }});
          document.body.append(form);
          form.submit();
          const worker = new Worker(URL.createObjectURL(new Blob([{json.dumps(worker)}])));
          await new Promise((resolve) => {{
            worker.onmessage = resolve;
            setTimeout(resolve, 2000);
          }});
          await new Promise((resolve) => setTimeout(resolve, 500));
        }})()""",
    )
    server.shutdown()
    server.server_close()
    assert Listener.heard == []


def test_the_model_shown_is_the_bundles(page, bundle):
    digest = hashlib.sha256((bundle / "classifier.onnx").read_bytes()).hexdigest()
    assert digest in page("evaluate", script="document.querySelector('#about').innerText")
