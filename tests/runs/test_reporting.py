"""What is kept of training: complete after any kill, and one error where the disk is full."""

import contextlib
import json
from pathlib import Path

import pytest
from rich.console import Console

from oct_jax.runs.checksums import system_errors
from oct_jax.runs.reporting import Reporter, draw_curves
from oct_jax.train.callbacks import EpochMetrics


def metrics(epoch: int) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        step=4 * epoch,
        loss=1.0 / epoch,
        accuracy=0.5,
        val_loss=1.0,
        val_accuracy=0.5,
        val_balanced_accuracy=0.5,
        learning_rate=1e-3,
        skipped=0,
        images_per_second=10.0,
    )


def rows(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").open()]


@pytest.mark.parametrize("content", [None, b"", b'{"epoch": 1, "st', b"[]\nnull\n", b"\xff"])
def test_rows_are_complete_after_a_resume_whatever_became_of_their_file(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with Reporter(tmp_path, Console(quiet=True), 8) as reporter:
        reporter.on_start(8, 12, [metrics(1), metrics(2)])
        assert rows(tmp_path) == [1, 2]
        reporter.on_epoch(metrics(3))
    assert rows(tmp_path) == [1, 2, 3]
    assert [row["epoch"] for row in reporter.rows] == [1, 2, 3]


def test_events_hold_every_row_and_replace_those_of_earlier_processes(tmp_path):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    with Reporter(tmp_path, Console(quiet=True), 8) as reporter:
        reporter.on_start(4, 8, [metrics(1)])
        reporter.on_epoch(metrics(2))
    (path,) = tmp_path.glob("events.out.tfevents.*")
    events = [Event.FromString(record) for record in records(path.read_bytes())]
    assert events[1].session_log.status == SessionLog.START
    assert events[1].step == 0
    losses = {
        event.step: event.summary.value[0].simple_value
        for event in events
        if event.summary.value and event.summary.value[0].tag == "loss"
    }
    assert losses == {4: 1.0, 8: 0.5}


def records(data: bytes):
    """Of TFRecord: length (8 bytes), its checksum (4), content, its checksum (4)."""
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_a_full_disk_is_an_error_of_the_folder(small_disk):
    with pytest.raises(OSError, match="No space left on device") as error:
        report_until_full(small_disk)
    assert str(error.value.filename).startswith(str(small_disk))
    with pytest.raises(OSError, match="No space left") as error:
        draw_curves([vars(metrics(1))], small_disk / "curves.png", title="")
    assert error.value.filename == str(small_disk / "curves.png")
    assert not (small_disk / "curves.png").exists()


def test_full_events_alone_are_an_error_too(small_disk, monkeypatch):
    monkeypatch.setattr(Reporter, "_write_rows", lambda self: None)
    with pytest.raises(OSError, match="No space left on device") as error:
        report_until_full(small_disk)
    assert error.value.filename == str(small_disk)


def report_until_full(disk: Path) -> None:
    with Reporter(disk, Console(quiet=True), 8) as reporter:
        reporter.on_start(0, 100, [])
        fill(disk)
        for epoch in range(1, 200):
            reporter.on_epoch(metrics(epoch))


def fill(disk: Path) -> None:
    """Leaves no free byte."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1000))


def test_only_errors_that_name_no_file_get_the_folders_name(tmp_path):
    with pytest.raises(FileNotFoundError) as error, system_errors(tmp_path):
        Path("no/such").read_bytes()
    assert error.value.filename == "no/such"
    with pytest.raises(BrokenPipeError), system_errors(tmp_path):
        raise BrokenPipeError(32, "Broken pipe")
    with pytest.raises(ValueError, match="another"), system_errors(tmp_path):
        raise ValueError("another")
