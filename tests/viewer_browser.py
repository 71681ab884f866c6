"""Chromium with one page, driven from Python through `export/browser/drive.mjs`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).parent / "export" / "browser" / "drive.mjs"
PACKAGES = ("playwright-core", "axe-core")


def what_is_missing() -> str:
    """What this machine lacks to run a browser, in words; "" where it has all."""
    if shutil.which("node") is None:
        return "Node.js is not installed"
    if _chromium() is None:
        return "Chromium is not installed"
    folder = os.environ.get("OCT_NODE_MODULES", "")
    missing = [name for name in PACKAGES if not (Path(folder) / name).is_dir()]
    return f"OCT_NODE_MODULES names no folder with {', '.join(missing)}" if missing else ""


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """A browser of one page; actions are those of the driver.

    Attributes:
      opened: the page that is open as a test without wishes of its own opens it; else None.
    """

    opened: Path | None = None

    def __init__(self) -> None:
        environment = os.environ | {"OCT_CHROMIUM": _chromium() or ""}
        self._process = subprocess.Popen(
            [shutil.which("node") or "node", str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    @property
    def pid(self) -> int:
        """Of the driver, which the browser is a child of."""
        return self._process.pid

    def __call__(self, action: str, **request: Any) -> Any:
        """Runs an action; raises RuntimeError with the driver's words where it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"action": action, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{action}: the driver ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{action}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path, width: int = 1280, height: int = 800, **options: Any) -> str:
        """Opens a page from disk; returns its status line once it has started or failed."""
        plain = (width, height) == (1280, 800) and not options
        status = self("open", url=page.as_uri(), width=width, height=height, **options)
        self.opened = page if plain else None
        return status

    def close(self) -> None:
        """Ends the browser."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
