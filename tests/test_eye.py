"""A volume in, one answer out: batches, unreadable B-scans, heatmaps."""

import dataclasses
import weakref

import numpy as np
import pytest
import volume_files as files
from narrow_run import make_run

from oct_jax.data.preprocess import resize_scan
from oct_jax.data.readers import UnreadableScan
from oct_jax.data.volumes import open_volume, volume_from_arrays
from oct_jax.data.volumes.volume import BScans
from oct_jax.decision.eye import weights_of
from oct_jax.eye import PROFILE, explain_eye, predict_eye
from oct_jax.eye.batches import BATCH
from oct_jax.runs.load import load
from oct_jax.types import UserError


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return load(make_run(tmp_path_factory.mktemp("eye") / "run"))


@dataclasses.dataclass(frozen=True)
class Torn(BScans):
    """B-scans of which some cannot be read."""

    images: tuple
    torn: tuple[int, ...]

    def __len__(self):
        return len(self.images)

    def read(self, index):
        if index in self.torn:
            raise UnreadableScan("x.tif", "truncated")
        return self.images[index]


def torn_volume(count, torn):
    images = files.bscans(count)
    return dataclasses.replace(volume_from_arrays(images), bscans=Torn(tuple(images), tuple(torn)))


def test_an_eye_is_its_middle_through_the_head(classifier):
    volume = volume_from_arrays(files.bscans(8))
    eye = predict_eye(classifier, volume)
    alone = classifier.predict([volume.read(index) for index in range(8)])
    for scan, single in zip(eye.scans, alone, strict=True):
        np.testing.assert_allclose(scan.logits, single.logits, atol=1e-4)
    scans = np.stack([resize_scan(volume.read(i), classifier.preprocess) for i in range(8)])
    pooled = np.asarray(classifier.apply(classifier.variables, scans).pooled)
    of_scans = np.stack([scan.probabilities for scan in eye.scans]).astype(np.float64)
    weights = weights_of(of_scans, eye.field.central, eye.task)
    np.testing.assert_allclose(eye.outputs.pooled[0], weights @ pooled, atol=1e-4)
    assert eye.label == eye.task.classes[eye.probabilities.argmax()]
    assert not eye.calibrated
    np.testing.assert_allclose(eye.probabilities.sum(), 1, atol=1e-5)


def test_one_bscan_is_an_eye_as_it_is_a_scan(classifier):
    eye = predict_eye(classifier, volume_from_arrays(files.bscans(1)))
    np.testing.assert_allclose(eye.probabilities, eye.scans[0].probabilities, atol=1e-4)


def test_spacing_reaches_the_preprocessing(classifier):
    retina = dataclasses.replace(
        classifier, preprocess=dataclasses.replace(classifier.preprocess, resize="retina")
    )
    images = files.bscans(3, height=300, width=400)
    plain = predict_eye(retina, volume_from_arrays(images))
    spaced = predict_eye(retina, volume_from_arrays(images, spacing=(8.0, 11.6)))
    assert np.abs(plain.outputs.logits - spaced.outputs.logits).max() > 1e-3


def test_unreadable_bscans_are_named_and_the_others_count(classifier):
    eye = predict_eye(classifier, torn_volume(20, [3, 17]))
    assert eye.unreadable == ("B-scan 4: truncated", "B-scan 18: truncated")
    assert len(eye.scans) == 18
    assert 3 not in eye.indices


def test_an_eye_without_its_middle_is_deferred(classifier):
    eye = predict_eye(classifier, torn_volume(20, range(6, 14)))
    assert eye.referral == "defer"
    assert "8 of the 10 B-scans in the middle cannot be read" in eye.reason


def test_a_volume_of_which_nothing_can_be_read_is_refused(classifier):
    with pytest.raises(UnreadableScan, match="none of its B-scans"):
        predict_eye(classifier, torn_volume(5, range(5)))


def test_an_explanation_has_evidence_for_every_bscan(classifier, tmp_path):
    volume = open_volume(files.write_heyex(tmp_path / "eye", files.bscans(12)))
    done = []
    explained = explain_eye(classifier, volume, progress=lambda n, of: done.append((n, of)))
    assert explained.evidence.shape == (12, PROFILE)
    assert explained.evidence.min() >= 0
    assert explained.evidence.max() <= 1
    assert 1 <= len(explained.telling) <= 3
    for index, one in explained.telling:
        again = classifier.explain(volume.read(index), explained.target)
        np.testing.assert_allclose(one.cells, again.cells, atol=1e-3)
    assert done == [(8, 12), (12, 12)] * 2


def test_the_target_is_the_eye_s_or_its_likeliest_disease(classifier):
    volume = volume_from_arrays(files.bscans(8))
    explained = explain_eye(classifier, volume)
    eye = explained.prediction
    disease = dict(zip(eye.task.classes, eye.probabilities, strict=True))
    if eye.label == "NORMAL":
        disease.pop("NORMAL")
    assert explained.target == max(disease, key=disease.get)
    assert explain_eye(classifier, volume, target="DME").target == "DME"
    with pytest.raises(UserError, match="class 'X'"):
        explain_eye(classifier, volume, target="X")


@dataclasses.dataclass(frozen=True)
class Watched(BScans):
    """B-scans made when they are read; `alive` and `most` count those that somebody still holds."""

    count: int
    tally: dict

    def __len__(self):
        return self.count

    def read(self, index):
        image = np.roll(files.bscans(1)[0], index, axis=1)
        self.tally["alive"] += 1
        self.tally["most"] = max(self.tally["most"], self.tally["alive"])
        weakref.finalize(image, self.gone)
        return image

    def gone(self):
        self.tally["alive"] -= 1


def test_no_more_bscans_are_held_of_a_long_volume(classifier):
    tally = {"alive": 0, "most": 0}
    short = volume_from_arrays(files.bscans(1))
    volume = dataclasses.replace(short, bscans=Watched(40, tally), numbers=tuple(range(1, 41)))
    assert len(explain_eye(classifier, volume).evidence) == 40
    assert tally["most"] <= 3 * BATCH
