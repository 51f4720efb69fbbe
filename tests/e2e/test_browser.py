"""A real browser opens links. `make browser` runs this file; `make e2e` leaves it out, because Chromium needs 370 MB."""

import json
import os
import subprocess

import pytest

from services import Sshd, wait_until
from stage import SERVER6, Capture
from test_links import links, make_profile

SSH = 2222


class Browser:
    """Chromium without a window, with one tab, controlled by the DevTools protocol."""

    def __init__(self, machine, directory, *options):
        (commands, self._commands), (self._events, events) = os.pipe(), os.pipe()
        self._process = machine.start(
            "bash", "-c", f'exec "$@" 3<&{commands} 4>&{events}', "bash", "chromium", "--headless=new", "--no-sandbox",
            "--remote-debugging-pipe", f"--user-data-dir={directory}", "--window-size=800,600", *options, "about:blank",
            pass_fds=(commands, events), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(events)
        self._events = open(self._events, "rb")
        self._number, self._session = 0, {}
        [tab] = [target for target in self._call("Target.getTargets")["targetInfos"] if target["type"] == "page"]
        attached = self._call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        self._call("Page.enable")

    def _call(self, method, **parameters):
        """Calls a method, and returns its result."""
        self._send(method, parameters)
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                return answer["result"]

    def _send(self, method, parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")

    def _receive(self):
        text = bytearray()
        while (octet := self._events.read(1)) != b"\0":
            assert octet, "the browser ended"
            text += octet
        return json.loads(text)

    def open(self, url):
        """Goes to a page, and returns the error that the browser shows."""
        return self._call("Page.navigate", url=url)["errorText"]

    def begin_to_open(self, url):
        """Goes to a page that may not answer."""
        self._send("Page.navigate", {"url": url})

    def text(self):
        """Returns the words that the page shows."""
        return self._call("Runtime.evaluate", expression="document.body?.innerText ?? ''")["result"]["value"]

    def close(self):
        os.close(self._commands)
        self._events.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture
def browser(stage, firewall):
    """A daemon that guards the port of an sshd, a profile for links, and a browser on the client, which has IPv6 only."""
    stage.configure(firewall=firewall, guard=SSH, log="kmsg")
    make_profile(stage, "phone", ports=SSH)
    stage.sshd = stage.keep(Sshd(stage.server, stage.directory / "sshd", SSH))
    stage.client.run("ip", "-6", "route", "add", "default", "via", SERVER6)
    stage.start_daemon()
    return stage.keep(Browser(stage.client, stage.directory / "browser"))


def logs_in(stage):
    done = stage.client.run("ssh", "-o", "ConnectTimeout=1", *stage.sshd.options("none"), "-p", SSH, SERVER6, "echo in",
                            check=False)
    return done.stdout == "in\n"


def test_a_link_in_a_browser_admits_ssh(stage, browser, firewall):
    first, second, third = links(stage, 3, "phone", port=SSH)
    assert not logs_in(stage)
    for address, works in ((first, True), (first, False), (second, True), (third, True), (second, False)):
        capture = stage.keep(Capture(stage.client))
        if firewall == "nft":
            assert browser.open(f"http://[{address}]/") == "net::ERR_CONNECTION_REFUSED"
            wait_until(lambda: "refused to connect" in browser.text())
        else:
            # It waits, and shows an empty page.
            browser.begin_to_open(f"http://[{address}]/")
        if works:
            stage.daemon.wait_for(f"opened port {SSH}")
            assert logs_in(stage)
        assert not logs_in(stage)
        # The browser connects several times, also to the links before: these are replays.
        sent = [packet.destination for packet in capture.sent(80, quiet=0.3)]
        assert sent.count(address) > 1 or not works
        assert set(sent) <= {first, second, third}
        lines = stage.daemon.new_lines()
        assert not any("opened" in line or "link" in line for line in lines), lines
