"""Debian's Prometheus scrapes a server under load: rules and configuration are valid, and every panel and every alert
has data to look at."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from end_to_end.served import PATIENCE, ServerProcess

from pavane.clients import CallFailed, Client

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".tools" / "usr" / "bin"


def tool(name: str) -> str | None:
    """From the path, or where `make tools` puts it."""
    return shutil.which(name) or shutil.which(name, path=str(TOOLS))


pytestmark = pytest.mark.skipif(
    tool("prometheus") is None or tool("promtool") is None, reason="prometheus is not installed: make tools"
)


def promtool(*args: str, given: str = "") -> str:
    done = subprocess.run(
        [str(tool("promtool")), *args], input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.read().decode()


class Prometheus:
    """A process of its own with the project's rules, that scrapes `target` every 250 ms."""

    def __init__(self, folder: Path, target: str) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text())
        config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        path = folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = (f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn")
        self._log = (folder / "log").open("w+")
        self._process = subprocess.Popen(
            [str(tool("prometheus")), *flags, f"--web.listen-address={self.address}"], stderr=self._log
        )

    def query(self, expression: str) -> list[Any]:
        text = fetch(f"http://{self.address}/api/v1/query?query={urllib.parse.quote(expression)}")
        result: list[Any] = json.loads(text)["data"]["result"]
        return result

    def wait(self, expression: str) -> None:
        """Until it has an answer."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self._process.poll() is None, Path(self._log.name).read_text()
            try:
                if self.query(expression):
                    return
            except OSError:
                pass  # not listening yet
            time.sleep(0.1)
        raise AssertionError(f"no answer to {expression}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._log.close()


async def load(server: ServerProcess) -> None:
    """Calls that reuse, that wait for others, and one that fails."""
    async with Client(server.target) as client, client.workflow() as wf:
        start = wf.prefill(system="You are brief.", user="Name a colour.")
        ideas = [wf.decode(start, max_tokens=6, temperature=0.0, ignore_eos=True) for _ in range(3)]
        last = wf.decode(wf.prefill(user="Choose one."), *ideas, max_tokens=6, ignore_eos=True)
        await last
        with pytest.raises(CallFailed):
            await wf.decode(start, max_tokens=400, ignore_eos=True, timeout=0.05)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, ServerProcess]]:
    flags = ("--num-slots", "4096", "--host-cache-gb", "0.2", "--log-level", "info")
    server = ServerProcess(*flags).wait_ready()
    prometheus = None
    try:
        prometheus = Prometheus(tmp_path_factory.mktemp("prometheus"), urllib.parse.urlsplit(server.metrics_url).netloc)
        asyncio.run(load(server))
        prometheus.wait("pavane_rows_total > 0")
        for _ in range(3):  # what counts per second needs a second look
            asyncio.run(load(server))
        prometheus.wait('rate(pavane_tokens_total{class="generated"}[5m]) > 0')
        prometheus.wait("pavane:calls_failed:ratio5m > 0")
        yield prometheus, server
    finally:
        if prometheus is not None:
            prometheus.stop()
        server.stop()


def panels() -> list[tuple[str, str]]:
    board = json.loads((DEPLOY / "grafana" / "pavane.json").read_text())
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]


def alerts() -> list[tuple[str, str]]:
    """What each alert compares with its bound."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    found = []
    for rule in [rule for group in groups for rule in group["rules"]]:
        match = re.fullmatch(r"(.*) [<>] [0-9.]+", rule["expr"], flags=re.DOTALL)
        assert match is not None, f"{rule['alert']} compares nothing with a bound"
        found.append((rule["alert"], match[1]))
    return found


def rules() -> list[tuple[str, str]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    return [(rule["record"], rule["record"]) for group in groups for rule in group["rules"]]


def test_promtool_accepts_rules_and_configuration() -> None:
    promtool("check", "rules", str(DEPLOY / "prometheus" / "rules.yml"), str(DEPLOY / "prometheus" / "alerts.yml"))
    promtool("check", "config", str(DEPLOY / "prometheus" / "scrape.yml"))


@pytest.mark.parametrize(("what", "expression"), [*panels(), *alerts(), *rules()])
def test_every_expression_has_data(scraped: tuple[Prometheus, ServerProcess], what: str, expression: str) -> None:
    prometheus, _ = scraped
    expression = expression.replace("$instance", ".*")
    assert prometheus.query(expression), f"{what}: no data for {expression}"


def test_promtool_accepts_the_metrics(scraped: tuple[Prometheus, ServerProcess]) -> None:
    """Names, types and help as Prometheus wants them."""
    _, server = scraped
    assert promtool("check", "metrics", given=fetch(server.metrics_url)) == ""


def test_what_the_manual_says_of_each_alert() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()
    for name, _ in alerts():
        assert f"**{name}**" in manual, "each alert has a paragraph on what to do"
