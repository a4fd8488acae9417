"""A headless Chromium, spoken to by its DevTools protocol."""

import json
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from liquidations.errors import LiquidationsError
from liquidations.page import find_browser


def browser_or_skip() -> str:
    """Return the browser, or skip the test and say how to install one."""
    try:
        return find_browser()
    except LiquidationsError:
        pytest.skip("no Chromium or Chrome: apt-get install chromium")


class Browser:
    """Show pages, ask them, move the mouse over them."""

    def __init__(self, folder: Path, width: int = 1400, height: int = 900) -> None:
        flags = f"--headless --no-sandbox --remote-debugging-port=0 --user-data-dir={folder} "
        flags += f"--window-size={width},{height} --force-device-scale-factor=1"
        command = [browser_or_skip(), *flags.split(), "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._stack = ExitStack()
        process = self._stack.enter_context(subprocess.Popen(command, **quiet))
        self._stack.callback(process.terminate)
        try:
            self._connect(folder, width, height)
        except BaseException:
            self.close()
            raise

    def _connect(self, folder: Path, width: int, height: int) -> None:
        told = folder / "DevToolsActivePort"
        self._until(lambda: told.exists() and told.read_text().strip())
        port = told.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tab = next(one for one in json.load(answer) if one["type"] == "page")
        socket = connect(tab["webSocketDebuggerUrl"], max_size=None)
        self._socket = self._stack.enter_context(socket)
        self._asked = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._asked:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript, wait for what it promises, and return its value."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until a script has a value that is true, and return it."""
        return self._until(lambda: self.run(script))

    def open(self, page: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        self.wait("document.getElementById('chart')?.dataset.ready")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def close(self) -> None:
        self._stack.close()

    def _until(self, asked: Any) -> Any:
        end = time.monotonic() + 60
        while not (found := asked()):
            assert time.monotonic() < end, "the browser does not get there"
            time.sleep(0.05)
        return found
