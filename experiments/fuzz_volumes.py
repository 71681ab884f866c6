"""Damages volumes at random: each must open, or be refused in one line, fast and in little memory.

    python experiments/fuzz_volumes.py mutations=100000 samples=../shared/data seed=0

Files of every format are written as the tests write them, with a patient's details planted; with
`samples=`, the real `volumes/*.vol` and the XML of `eyes_dev/*` beside their TIFFs too. A mutation
flips bytes, sets four of them to an extreme, cuts the end off, or repeats or drops a part; most
strike the first 4 kB, where headers are. The volume is opened, and its first and last B-scan and
its localizer are read. What is counted as a failure: another exception than `UserError`, an error
of several lines or that quotes the patient, ten seconds of processor time, or a gigabyte.
`minutes=` ends it earlier. With `state=FILE` the counts are kept there every 500 mutations, and the
same command goes on where it stopped: each mutation has a seed of its own.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from oct_jax import UserError
from oct_jax.commands.parsing import split_words
from oct_jax.data.volumes import open_volumes
from oct_jax.files import write_atomic

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import device_files as devices
import volume_files as files

SLOW, LARGE = 10.0, 1_000_000
"""Seconds of processor time for one volume; kilobytes of memory for the whole process."""
_KEEP = 500
"""Mutations between two writings of the counts."""
_EXTREMES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000)


@dataclass
class Sample:
    """A volume to damage.

    Attributes:
      name: of the format.
      place: what is opened.
      target: the file in it that is damaged.
      whole: its content.
      planted: whether the patient of the tests is planted in it.
    """

    name: str
    place: Path
    target: Path
    whole: bytes
    planted: bool = True


@dataclass
class Tally:
    """What became of the mutations of one format."""

    opened: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """Counts a failure."""
        self.failures[reason] = self.failures.get(reason, 0) + 1


@dataclass
class Campaign:
    """What a campaign has counted.

    Attributes:
      number: of the next mutation.
      tallies: of each format.
      memory: the most that a process took, kilobytes.
    """

    number: int
    tallies: dict[str, Tally]
    memory: int = 0


def main(words: list[str]) -> None:
    """Prints a table; exit code 1 where anything failed."""
    given = {"mutations": "2000", "minutes": "inf", "seed": "0", "samples": "", "state": ""}
    given |= split_words(words)
    seed, state = int(given["seed"]), Path(given["state"]) if given["state"] else None
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        samples = _written(folder) + _real(folder, given["samples"])
        campaign = _resumed(state, samples)
        end = time.monotonic() + 60 * float(given["minutes"])
        while campaign.number < int(given["mutations"]) and time.monotonic() < end:
            rng = np.random.default_rng((seed, campaign.number))
            sample = samples[campaign.number % len(samples)]
            sample.target.write_bytes(_mutated(sample.whole, rng))
            _try(sample, campaign.tallies[sample.name])
            sample.target.write_bytes(sample.whole)
            campaign.number += 1
            if campaign.number % _KEEP == 0:
                _keep(campaign, state)
        _keep(campaign, state)
    finally:
        shutil.rmtree(folder)
    _report(campaign)


def _resumed(state: Path | None, samples: list[Sample]) -> Campaign:
    if state is None or not state.exists():
        return Campaign(0, {sample.name: Tally() for sample in samples})
    kept = json.loads(state.read_text(encoding="utf-8"))
    tallies = {name: Tally(**tally) for name, tally in kept["tallies"].items()}
    return Campaign(kept["number"], tallies, kept["memory"])


def _keep(campaign: Campaign, state: Path | None) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    campaign.memory = max(campaign.memory, peak)
    if state is not None:
        write_atomic(state, json.dumps(asdict(campaign)))


def _try(sample: Sample, tally: Tally) -> None:
    start = time.process_time()
    try:
        for volume in open_volumes(sample.place):
            volume.read(0)
            volume.read(len(volume) - 1)
            if volume.localizer is not None:
                volume.localizer.read()
        tally.opened += 1
    except UserError as error:
        tally.refused += 1
        line = str(error)
        if "\n" in line or (sample.planted and any(word in line for word in files.PLANTED)):
            tally.fail(f"bad line: {line[:200]!r}")
    except Exception:
        tally.fail(traceback.format_exc(limit=-2))
    seconds = time.process_time() - start
    tally.slowest = max(tally.slowest, seconds)
    if seconds > SLOW:
        tally.fail(f"{seconds:.0f} s")


def _mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        if len(data) < 8:
            break
        reach = len(data) if rng.random() < 0.3 else min(len(data), 4096)
        place = int(rng.integers(0, reach - 4))
        kind = rng.integers(5)
        if kind == 0:
            data[place] ^= int(rng.integers(1, 256))
        elif kind == 1:
            extreme = int(rng.choice(_EXTREMES)).to_bytes(4, "little")
            data[place : place + 4] = extreme
        elif kind == 2 and rng.random() < 0.5:
            del data[int(rng.integers(0, len(data))) :]
        elif kind == 3:
            length = int(rng.integers(1, 64))
            data[place:place] = data[place : place + length]
        else:
            del data[place : place + int(rng.integers(1, 64))]
    return bytes(data)


def _written(folder: Path) -> list[Sample]:
    images = files.bscans()

    def single(name: str, write: Callable[..., Path], **settings) -> Sample:
        path = write(folder / name, images, **settings)
        return Sample(name, path, path, path.read_bytes())

    export = files.write_heyex(folder / "heyex", images)
    xml, tiff = export / "EXPORT.xml", export / "F00000.tif"
    return [
        Sample("heyex xml", export, xml, xml.read_bytes()),
        Sample("heyex tiff", (other := files.write_heyex(folder / "heyex2", images)),
               other / tiff.name, tiff.read_bytes()),
        single("vol", files.write_vol),
        single("tiff pages", files.write_pages),
        single("e2e", devices.write_e2e),
        single("fda", devices.write_topcon),
        single("fds", devices.write_topcon, pictures=False),
        single("dicom", devices.write_dicom),
        single("dicom jpeg 2000", devices.write_dicom, syntax="jpeg2000"),
        single("dicom jpeg-ls", devices.write_dicom, syntax="jpegls"),
    ]  # fmt: skip


def _real(folder: Path, root: str) -> list[Sample]:
    if not root:
        return []
    samples = []
    for path in sorted(Path(root).glob("volumes/*.vol")):
        copy = Path(shutil.copyfile(path, folder / f"real-{path.name}"))
        samples.append(Sample("real vol", copy, copy, copy.read_bytes(), planted=False))
    for eye in sorted(path for path in Path(root).glob("eyes_dev/*") if path.is_dir()):
        place = folder / f"real-{eye.name}"
        place.mkdir()
        for path in eye.glob("*.tif"):
            (place / path.name).symlink_to(path.resolve())
        xml = Path(shutil.copyfile(next(eye.glob("*.xml")), place / "EXPORT.xml"))
        samples.append(Sample("real heyex xml", place, xml, xml.read_bytes(), planted=False))
    return samples


def _report(campaign: Campaign) -> None:
    print(f"{campaign.number} mutations")
    print("| format | opened | refused | failed | slowest, s |")
    print("|---|---|---|---|---|")
    for name, tally in campaign.tallies.items():
        failed = sum(tally.failures.values())
        print(f"| {name} | {tally.opened} | {tally.refused} | {failed} | {tally.slowest:.2f} |")
    print(f"peak memory of the process: {campaign.memory / 1000:.0f} MB")
    failures = Counter()
    for tally in campaign.tallies.values():
        failures.update(tally.failures)
    for failure, count in failures.most_common(20):
        print(f"{count} times: {failure}", file=sys.stderr)
    if failures or campaign.memory > LARGE:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
