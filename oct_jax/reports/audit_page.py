"""An audit in words, as JSON, and as one page with pictures."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oct_jax.data.audit import SHORTCUT_MARGIN, Audit, Measured, Pair
from oct_jax.data.manifest import summarize
from oct_jax.data.readers import read_scan
from oct_jax.files import write_atomic, write_json
from oct_jax.reports import html
from oct_jax.reports.picture import contact_sheet
from oct_jax.task import KERMANY
from oct_jax.types import UserError

_SHOWN_PAIRS = 12
_SHOWN_SCANS = 6
_LISTED = 200
_SIZES = 8


def verdict(audit: Audit) -> str:
    """Whether the splits leak, in one line."""
    if not audit.listing.official:
        return "no splits to leak: the folder has class folders alone"
    if not audit.leaks:
        return "no leak found between the splits"
    return (
        f"LEAK: {len(audit.patients_in_splits)} patients and {len(audit.leaking_pairs)} "
        "pictures are in more than one split; scores on them would be too good"
    )


def fix(audit: Audit) -> str:
    """The command that writes a manifest with clean splits."""
    task = "" if audit.task == KERMANY else f" task={audit.task.name}"
    return f"python -m oct_jax.data audit {audit.root} write_manifest=manifest.csv{task}"


def summary_lines(audit: Audit) -> list[str]:
    """The findings, a line each."""
    lines = [f"release: {audit.release}"]
    for split, by_class in audit.counts.items():
        counts = ", ".join(f"{label} {count}" for label, count in by_class.items())
        lines.append(f"{split}: {sum(by_class.values())} scans ({counts})")
    lines += _patient_lines(audit)
    lines += [f"{name}: {len(pairs)} pairs" + _across(pairs) for name, pairs in _kinds(audit)]
    if audit.contradictions:
        named = summarize([f"{p.first.path} = {p.second.path}" for p in audit.contradictions])
        lines.append(
            f"CONTRADICTION: {len(audit.contradictions)} files are byte-identical to a file of"
            f" another class: {named}; correct or remove one of each"
        )
    lines += _file_lines(audit)
    lines += _border_lines(audit)
    lines += _shortcut_lines(audit)
    lines.append(verdict(audit))
    return lines


def as_json(audit: Audit) -> dict[str, Any]:
    """The audit as JSON values; every finding is listed in full."""
    shortcut = audit.shortcut
    return {
        "root": str(audit.root),
        "release": audit.release,
        "leaks": audit.leaks,
        "contradictions": [[p.first.path, p.second.path] for p in audit.contradictions],
        "counts": audit.counts,
        "patients": len(audit.scans_per_patient),
        "scans_per_patient": dict(sorted(Counter(audit.scans_per_patient.values()).items())),
        "without_patient": audit.listing.without_patient,
        "patients_in_splits": audit.patients_in_splits,
        "patients_in_classes": audit.patients_in_classes,
        "pairs": [
            {
                "first": pair.first.path,
                "second": pair.second.path,
                "identical": pair.identical,
                "correlation": round(pair.correlation, 5),
                "across": pair.across,
            }
            for pair in audit.pairs
        ],
        "bad": [dataclasses.asdict(scan) for scan in audit.listing.bad],
        "odd": [dataclasses.asdict(scan) for scan in audit.odd],
        "merged_folders": audit.listing.merged,
        "ignored_folders": audit.listing.ignored,
        "sizes": {size: dict(by_class) for size, by_class in _sizes(audit.measured).items()},
        "storage": dict(Counter(m.storage for m in audit.measured)),
        "white_border": _white_borders(audit),
        "shortcut": dataclasses.asdict(shortcut) | {"warns": shortcut.warns} if shortcut else None,
    }


def write_report(audit: Audit, folder: Path) -> None:
    """Writes `audit.json` and `audit.html`, each whole or not at all.

    Raises:
      UserError: the folder cannot be written to.
    """
    page = as_html(audit)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "audit.json", as_json(audit))
        write_atomic(folder / "audit.html", page)
    except OSError as error:
        raise UserError(f"cannot write the audit to {folder}: {error.strerror}") from error


def as_html(audit: Audit) -> str:
    """One page, pictures and style inside, that prints."""
    sections = [
        f"<h1>Audit of {html.text(audit.root.name)}</h1>",
        html.verdict(verdict(audit), good=not audit.leaks),
    ]
    if audit.leaks:
        sections.append(f"<p>Clean splits: <code>{html.text(fix(audit))}</code></p>")
    sections += ["<h2>Summary</h2>", html.items(summary_lines(audit)[:-1])]
    sections += ["<h2>Scans by split and class</h2>", _counts_table(audit)]
    if audit.measured:
        sections += ["<h2>Sizes</h2>", html.picture(_size_chart(audit), "png")]
    sections += ["<h2>What each class looks like</h2>", *_class_sheets(audit)]
    worst = sorted(audit.pairs, key=lambda pair: (-len(pair.across), -pair.correlation))
    if worst:
        sections.append(f"<h2>Duplicates ({min(len(worst), _SHOWN_PAIRS)} of {len(worst)})</h2>")
        sections += [_pair_sheet(audit, pair) for pair in worst[:_SHOWN_PAIRS]]
    for title, files in (("Unusable", audit.listing.bad), ("Oddly stored", audit.odd)):
        if files:
            sections += [
                f"<h2>{title} files ({len(files)})</h2>",
                html.items([f"{scan.path}: {scan.reason}" for scan in files[:_LISTED]]),
            ]
    return html.page(f"Audit of {audit.root.name}", sections)


def _patient_lines(audit: Audit) -> list[str]:
    per_patient = sorted(audit.scans_per_patient.values())
    if not per_patient:
        return ["no readable scans"]
    lines = [
        f"patients: {len(per_patient)}, with {per_patient[0]} to {per_patient[-1]} scans each "
        f"(median {per_patient[len(per_patient) // 2]})"
    ]
    if audit.patients_in_classes:
        lines.append(
            f"{len(audit.patients_in_classes)} patients have scans of several classes: "
            + summarize([f"{p} ({', '.join(c)})" for p, c in audit.patients_in_classes.items()])
        )
    if audit.patients_in_splits:
        named = summarize(audit.patients_in_splits)
        lines.append(f"{len(audit.patients_in_splits)} patients are in several splits: {named}")
    if audit.listing.without_patient:
        lines.append(
            f"warning: {audit.listing.without_patient} scans name no patient; leaks among them "
            "show only as duplicates"
        )
    return lines


def _kinds(audit: Audit) -> list[tuple[str, list[Pair]]]:
    identical = [pair for pair in audit.pairs if pair.identical]
    near = [pair for pair in audit.pairs if not pair.identical]
    return [("byte duplicates", identical), ("near duplicates", near)]


def _across(pairs: Sequence[Pair]) -> str:
    words = {"split": "across splits", "patient": "of different patients", "label": "of two labels"}
    counts = Counter(name for pair in pairs for name in pair.across)
    parts = [f"{counts[name]} {text}" for name, text in words.items() if counts[name]]
    return f" ({', '.join(parts)})" if parts else ""


def _file_lines(audit: Audit) -> list[str]:
    lines = []
    for what, files in (("unusable", audit.listing.bad), ("oddly stored", audit.odd)):
        if files:
            named = summarize([f"{scan.path} ({scan.reason})" for scan in files])
            lines.append(f"{len(files)} files {what}: {named}")
    if audit.listing.ignored:
        lines.append(f"folders of no class ignored: {summarize(audit.listing.ignored)}")
    if audit.listing.merged:
        lines.append(f"folders read as one class: {summarize(audit.listing.merged, '; ')}")
    storage = Counter(m.storage for m in audit.measured).most_common()
    lines.append("stored as: " + ", ".join(f"{kind} {count}" for kind, count in storage))
    sizes = _sizes(audit.measured)
    shown = [f"{size} {sum(by.values())}" for size, by in list(sizes.items())[:_SIZES]]
    lines.append("sizes: " + ", ".join(shown) + (", ..." if len(sizes) > _SIZES else ""))
    return lines


def _border_lines(audit: Audit) -> list[str]:
    shares = ", ".join(f"{label} {share:.0%}" for label, share in _white_borders(audit).items())
    return [f"scans with white borders: {shares}"]


def _white_borders(audit: Audit) -> dict[str, float]:
    """Of each class, the share of scans whose outermost pixels are white to a twentieth or more."""
    bordered = {
        label: [m.border >= 0.05 for m in audit.measured if m.record.label == label]
        for label in audit.task.classes
    }
    return {label: sum(white) / len(white) for label, white in bordered.items() if white}


def _shortcut_lines(audit: Audit) -> list[str]:
    shortcut = audit.shortcut
    if shortcut is None:
        return ["shortcut test: not made, too few patients or classes"]
    line = (
        f"shortcut test: size, border, mean and contrast alone tell the class with accuracy "
        f"{shortcut.accuracy:.3f} (majority {shortcut.majority:.3f}), balanced "
        f"{shortcut.balanced_accuracy:.3f} (chance {shortcut.chance:.3f})"
    )
    if not shortcut.warns:
        return [line]
    best = max(shortcut.by_feature, key=shortcut.by_feature.__getitem__)
    return [
        line,
        f"warning: that is more than {SHORTCUT_MARGIN:g} above chance; a model may learn it "
        f"instead of the retina: {best} alone reaches {shortcut.by_feature[best]:.3f}",
    ]


def _sizes(measured: Iterable[Measured]) -> dict[str, Counter[str]]:
    """Scans by size, commonest first, then by class."""
    sizes: dict[str, Counter[str]] = {}
    for m in measured:
        size = f"{m.record.width}x{m.record.height}"
        sizes.setdefault(size, Counter())[m.record.label] += 1
    return dict(sorted(sizes.items(), key=lambda item: -item[1].total()))


def _counts_table(audit: Audit) -> str:
    rows = [
        (
            split,
            *(f"{by_class[label]:,}" for label in audit.task.classes),
            f"{sum(by_class.values()):,}",
        )
        for split, by_class in audit.counts.items()
    ]
    return html.table(("split", *audit.task.classes, "all"), rows)


def _sheet(images: list[np.ndarray], captions: list[str], columns: int) -> str:
    sheet = contact_sheet(images, captions, columns=columns, tile=224)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "JPEG", quality=80)
    return html.picture(out.getvalue(), "jpeg")


def _class_sheets(audit: Audit) -> list[str]:
    sheets = []
    for label in audit.task.classes:
        records = [record for record in audit.records if record.label == label]
        if not records:
            continue
        chosen = records[:: -(-len(records) // _SHOWN_SCANS)]
        scans = [read_scan(audit.root / record.path) for record in chosen]
        names = [f"{Path(r.path).stem} {r.width}x{r.height}" for r in chosen]
        sheets.append(f"<h3>{html.text(label)}</h3>" + _sheet(scans, names, _SHOWN_SCANS // 2))
    return sheets


def _pair_sheet(audit: Audit, pair: Pair) -> str:
    two = (pair.first, pair.second)
    kind = "identical" if pair.identical else f"correlation {pair.correlation:.4f}"
    across = f"; different {', '.join(pair.across)}" if pair.across else ""
    names = f"<p>{html.text(pair.first.path)} and {html.text(pair.second.path)}: {kind}{across}</p>"
    scans = [read_scan(audit.root / record.path) for record in two]
    return names + _sheet(scans, [Path(record.path).stem for record in two], 2)


def _size_chart(audit: Audit) -> bytes:
    """Scans by size, stacked by class, as PNG."""
    from matplotlib.figure import Figure  # slow to import, needed for the page alone

    sizes = _sizes(audit.measured)
    shown = list(sizes)[:_SIZES]
    rest = Counter(m for size in list(sizes)[_SIZES:] for m in sizes[size].elements())
    bars = [*((size, sizes[size]) for size in shown), *([("other", rest)] if rest else [])]
    figure = Figure(figsize=(9, 0.5 + 0.4 * len(bars)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(bars))
    for label, shade in zip(audit.task.classes, audit.task.colours, strict=True):
        counts = np.array([by_class[label] for _, by_class in bars])
        axes.barh([size for size, _ in bars], counts, left=left, label=label, color=shade)
        left += counts
    axes.invert_yaxis()
    axes.set_xlabel("scans")
    axes.legend(ncols=min(len(audit.task.classes), 5), loc="lower right", frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
