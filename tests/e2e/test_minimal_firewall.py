"""scripts/minimal-firewall.nft and .sh: all ports are closed until a knock opens one."""

import errno
import socket
from pathlib import Path

import pytest
from stage import CLIENT, CLIENT6, SERVER, SERVER6, Profile, Service

SCRIPTS = Path(__file__).parents[2] / "scripts"
SHELL = SCRIPTS / "minimal-firewall.sh"


@pytest.fixture(params=["nft", "iptables"])
def closed(request, stage):
    """The stage with a minimal firewall on the server, and a second service."""
    stage.set_up(request.param)
    stage.keep(Service(stage.server, 80))
    if request.param == "nft":
        stage.server.run("nft", "--check", "--file", SCRIPTS / "minimal-firewall.nft")
        assert stage.connects(80)  # the dry run changed nothing
        stage.server.run("nft", "--file", SCRIPTS / "minimal-firewall.nft")
    else:
        stage.server.run(SHELL)
        assert stage.connects(80)
        stage.server.run(SHELL, "--apply", "--yes")
    return stage


def test_closed_without_a_knock(closed):
    assert not closed.connects(80)
    assert not closed.connects()
    closed.open_port()
    assert closed.connects()
    assert not closed.connects()


def test_loopback_and_what_the_server_starts(closed):
    closed.keep(Service(closed.client, 80))
    for address in ("127.0.0.1", CLIENT):
        connection = closed.server.connect(80, address=address)
        with connection:
            assert connection.recv(100) == Service.GREETING


def test_ipv6_neighbours_are_found(closed):
    closed.server.run("ip", "-6", "neighbour", "flush", "all", "nud", "permanent")
    closed.client.run("ip", "-6", "neighbour", "flush", "all", "nud", "permanent")
    closed.keep(Service(closed.client, 80))
    with closed.server.connect(80, address=CLIENT6, timeout=2) as connection:
        assert connection.recv(100) == Service.GREETING
    assert not closed.connects(80, address=SERVER6)


def test_a_port_outside_the_guard_opens_by_the_mark(stage):
    stage.keep(Service(stage.server, 80))
    web = Profile(stage, "web", ports=[80])
    stage.set_up("nft", guard="7")
    stage.server.run("nft", "--file", SCRIPTS / "minimal-firewall.nft")
    assert not stage.connects(80)
    stage.client.send(web.packet(web.counter, 80))
    stage.opened(80)
    assert stage.connects(80)
    assert not stage.connects(80)


def test_applied_twice_and_removed(stage):
    clean = [stage.server.run(f"{program}-save").stdout for program in ("iptables", "ip6tables")]
    stage.server.run(SHELL, "--apply", "--yes")
    once = stage.server.run("iptables", "-S").stdout
    stage.server.run(SHELL, "--apply", "--yes")
    assert stage.server.run("iptables", "-S").stdout == once
    stage.server.run(SHELL, "--remove")
    assert "minimal-firewall" not in stage.server.run("iptables", "-S").stdout + stage.server.run("ip6tables", "-S").stdout
    assert "minimal-firewall" not in "".join(clean)
    assert stage.connects()


def test_on_ssh_it_warns_and_waits_for_a_yes(stage):
    refused = stage.server.run("env", "SSH_CONNECTION=10.9.0.2 40000 10.9.0.1 22", SHELL, "--apply", check=False)
    assert refused.returncode == 1 and "You are logged in over ssh" in refused.stderr
    assert "minimal-firewall" not in stage.server.run("iptables", "-S").stdout
    dry = stage.server.run("env", f"SSH_CONNECTION=x {SERVER}", SHELL)
    assert "You are logged in over ssh" in dry.stderr and "-j DROP" in dry.stdout


def test_applied_where_another_chain_rejects_everything(stage):
    stage.server.run("sh", "-ec", """
        iptables -N REJECTLOG
        iptables -A REJECTLOG -p tcp -j REJECT --reject-with tcp-reset
        iptables -A INPUT -i lo -j ACCEPT
        iptables -A INPUT -j REJECTLOG""")
    stage.set_up("iptables")
    stage.open_port()
    assert not stage.connects()
    output = stage.server.run(SHELL, "--apply", "--yes").stderr
    assert "gone after a reboot" in output
    stage.open_port()
    assert stage.connects()
    assert not stage.connects()


def test_the_knock_port_is_reset_like_a_closed_port(closed):
    """A SYN that is dropped is normally retransmitted, and a knock is not."""
    for port in (closed.gate.knock_port, 80):
        with closed.client.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.settimeout(1)
            assert connection.connect_ex((SERVER, port)) == errno.ECONNREFUSED
