"""What other people's commands do to our rules: nothing where the table is ours, and not for long where it is not."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from stage import BINARY, SERVER, Service
from test_faults import process

# Each leaves as many rules as there were, or more.
TAMPERING = {
    "dormant": "add table inet knockknock { flags dormant; }",
    "an accept in prerouting": "insert rule inet knockknock prerouting accept",
    "an accept in input": "insert rule inet knockknock input accept",
    "a return that silences knocks": "insert rule inet knockknock knock return",
    "a replaced rule": "replace rule inet knockknock prerouting handle {guard} tcp dport 1 drop",
    "another policy": "chain inet knockknock input {{ policy drop; }}",
    "another chain": "add chain inet knockknock mine {{ type filter hook input priority -300; policy accept; }}",
    "another guarded port": "add element inet knockknock guarded {{ 8080 }}",
    "another knock port": "add element inet knockknock knock_ports {{ 8080 }}",
}
REMOVALS = {
    "a flush": "flush ruleset",
    "a deletion": "delete table inet knockknock",
    "a rule's deletion": "delete rule inet knockknock prerouting handle {guard}",
    "a set's flush": "flush set inet knockknock guarded",
}


OWNERSHIP = ("flags", "flags owner", "flags persist", "flags owner,persist")


def listed_table(machine):
    """Returns what nft lists of our table, without the parts that differ from listing to listing."""
    listing = machine.run("nft", "-s", "-t", "list", "table", "inet", "knockknock", check=False).stdout
    ports = [machine.run("nft", "list", "set", "inet", "knockknock", name, check=False).stdout
             for name in ("guarded", "knock_ports")]
    lines = re.sub("seed 0x[0-9a-f]+", "seed", "".join([listing, *ports])).splitlines()
    return [line for line in lines if "table inet" not in line and line.strip() not in OWNERSHIP]


def command(stage, what):
    """Returns the nft command, with the handle of the rule that is the guard."""
    lines = stage.server.run("nft", "-a", "list", "chain", "inet", "knockknock", "prerouting").stdout.splitlines()
    [guard] = [line.split()[-1] for line in lines if "tcp dport @guarded counter" in line]
    return what.replace("{{", "{").replace("}}", "}").replace("{guard}", guard)


def within(seconds, condition):
    """Waits until `condition` holds, at most `seconds`. Returns how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.002)
    return time.monotonic() - began


def knock_until_connected(stage):
    """Knocks until a connection is admitted. Knocks are lost while the watcher and the opener restart."""
    within(10, lambda: stage.knock() or stage.connects(timeout=0.2))


@pytest.mark.parametrize("what", [*TAMPERING, *REMOVALS])
def test_other_programs_cannot_change_an_owned_table(stage, what):
    stage.set_up("nft")
    before = listed_table(stage.server)
    stage.open_port()
    stage.server.run("nft", command(stage, {**TAMPERING, **REMOVALS}[what]), check=False)
    assert listed_table(stage.server) == before
    assert stage.connects()
    assert not stage.connects()
    assert not [line for line in stage.daemon.new_lines() if "restored them" in line]


@pytest.mark.parametrize("what", TAMPERING)
def test_a_change_that_removes_nothing_is_undone(stage, unowned, what):
    stage.set_up("nft", daemon_options=unowned)
    before = listed_table(stage.server)
    stage.open_port()
    children = stage.daemon.children()
    stage.server.run("nft", command(stage, TAMPERING[what]))
    took = within(1, lambda: listed_table(stage.server) == before)
    print(f"{what}: {1000 * took:.0f} ms")
    stage.daemon.wait_for("restored them")
    assert stage.connects(), "the opening is still there"
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()
    assert stage.daemon.children() == children, "they went on"


IPTABLES_TAMPERING = [
    "-I PREROUTING -j ACCEPT",
    "-I INPUT -j ACCEPT",
    "-I KNOCKKNOCK -j ACCEPT",
    "-I KNOCKKNOCK-INPUT -j ACCEPT",
    "-I KNOCKKNOCK-KNOCK -j RETURN",
    "-R KNOCKKNOCK-ADMIT 1 -j MARK --set-xmark 0x1/0x1",
    "-I KNOCKKNOCK-FORWARD -j ACCEPT",
]


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
@pytest.mark.parametrize("what", IPTABLES_TAMPERING)
def test_a_change_of_our_iptables_chains_that_removes_nothing_is_undone(stage, program, what):
    stage.set_up("iptables")

    def chains():
        listed = stage.server.run(program, "-t", "mangle", "-S").stdout.splitlines()
        first = [next(line for line in listed if line.startswith(f"-A {chain} ")) for chain in ("PREROUTING", "INPUT", "FORWARD")]
        return first, [line for line in listed if line.startswith("-A KNOCKKNOCK")]
    before = chains()
    stage.server.run(program, "-t", "mangle", *what.split())
    took = within(1, lambda: chains() == before)
    print(f"{program} {what}: {1000 * took:.0f} ms")
    stage.daemon.wait_for("restored them")
    assert not stage.connects()
    assert not stage.connects(address="fd09::1")
    knock_until_connected(stage)


def test_no_knock_is_lost_after_others_have_flushed_table_mangle_again_and_again(stage):
    """As firewalld does at each reload. The lists of openings are new ones then."""
    stage.set_up("iptables")
    watcher = process(stage.daemon, "watcher")
    for _ in range(8):
        for program in ("iptables", "ip6tables"):
            stage.server.run(program, "-t", "mangle", "-F")
            stage.server.run(program, "-t", "mangle", "-X", check=False)  # they may be in use again
        within(2, lambda: "-j LOG" in stage.server.run("iptables", "-t", "mangle", "-S").stdout)
        stage.open_port()
        assert stage.connects()
        assert not stage.connects()
    assert process(stage.daemon, "watcher") == watcher
    assert not [line for line in stage.daemon.lines if "cannot" in line]


def test_knocks_open_again_after_table_mangle_was_flushed_without_a_pause(stage):
    stage.set_up("iptables")
    flush = "while :; do iptables -t mangle -F; iptables -t mangle -X; done"
    with stage.server.start("sh", "-c", flush, stderr=subprocess.DEVNULL) as loop:
        for _ in range(20):
            stage.knock()
        loop.kill()
    within(5, lambda: "-j LOG" in stage.server.run("iptables", "-t", "mangle", "-S").stdout)
    stage.daemon.new_lines()
    stage.daemon._position = len(stage.daemon.lines)
    within(5, lambda: stage.knock() and any("opened" in line for line in stage.daemon.new_lines()))
    assert stage.connects()


def test_a_jump_that_is_deleted_while_the_chains_are_made_again_is_no_error(stage):
    """iptables-restore refuses to delete a rule that is not there."""
    programs, real = stage.directory / "bin", shutil.which("iptables-restore")
    programs.mkdir()
    (programs / "iptables-restore").write_text(f"""#!/bin/sh
        [ ! -e {programs}/armed ] || {{ rm {programs}/armed; iptables -t mangle -D INPUT -j KNOCKKNOCK-INPUT; }}
        exec {real} "$@"
        """)
    (programs / "iptables-restore").chmod(0o755)
    stage.set_up("iptables", daemon_options={"env": {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}})
    (programs / "armed").touch()
    stage.server.run("iptables", "-t", "mangle", "-D", "FORWARD", "-j", "KNOCKKNOCK-FORWARD")
    stage.daemon.wait_for("restored them")
    assert not (programs / "armed").exists()
    assert not [line for line in stage.daemon.lines if "cannot" in line]
    stage.open_port()
    assert stage.connects()


def test_rules_of_other_programs_in_table_mangle_are_left_alone(stage):
    """Anybody's deletion there is told to us, too."""
    stage.set_up("iptables")
    children = [process(stage.daemon, name) for name in ("watcher", "opener")]
    for program in ("iptables", "ip6tables"):
        for _ in range(5):
            stage.server.run(program, "-t", "mangle", "-A", "PREROUTING", "-p", "udp", "-j", "MARK", "--set-mark", "1")
            stage.server.run(program, "-t", "mangle", "-D", "PREROUTING", "-p", "udp", "-j", "MARK",
                             "--set-mark", "1")
    stage.open_port()
    assert stage.connects()
    assert [process(stage.daemon, name) for name in ("watcher", "opener")] == children
    assert not [line for line in stage.daemon.lines if "restored them" in line]


@pytest.mark.parametrize("owned", [True, False], ids=["owned", "unowned"])
def test_reloading_a_large_blocklist_loses_no_knock(stage, unowned, owned):
    """A hundred thousand addresses: the notifications are more than a socket holds."""
    stage.set_up("nft", daemon_options={} if owned else unowned)
    children = stage.daemon.children()
    addresses = ", ".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(100_000))
    path = stage.directory / "blocklist.nft"
    path.write_text("add table inet block\nadd set inet block addresses { type ipv4_addr; }\nflush set inet block addresses\n"
                    f"add element inet block addresses {{ {addresses} }}\n")
    loader = stage.server.start("sh", "-c", f"for i in 1 2 3 4; do nft -f {path} || exit 1; done")
    opened = 0
    while loader.poll() is None:
        stage.knock()
        stage.daemon.wait_for("opened port", timeout=20)  # an opening waits for the loader's transaction
        opened += stage.connects()
        time.sleep(0.05)
    assert loader.returncode == 0
    assert opened > 2
    assert opened == stage.gate.counter, "each knock"
    assert stage.daemon.children() == children
    assert not [line for line in stage.daemon.lines if "restored them" in line]


def refused(stage, during, tries=200):
    """Tries to connect as often as that while `during` runs; how often somebody was let in."""
    process = stage.server.start("sh", "-c", during, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    accepted = tried = 0
    while process.poll() is None or tried < tries:
        connection = stage.client.connect(22, timeout=0.002)
        tried += 1
        if connection:
            accepted += 1
            connection.close()
    process.wait()
    return accepted, tried


def test_an_owned_table_stands_through_a_loop_of_flushes(stage):
    stage.set_up("nft")
    accepted, tried = refused(stage, "for i in $(seq 300); do nft flush ruleset; done")
    print(f"{accepted} of {tried}")
    assert accepted == 0
    stage.open_port()
    assert stage.connects()


def test_a_reload_under_a_loop_of_flushes_opens_nothing(stage):
    stage.set_up("nft")
    loop = stage.server.start("sh", "-c", "while :; do nft flush ruleset; done", stderr=subprocess.DEVNULL)
    try:
        accepted = tried = 0
        for _ in range(5):
            stage.daemon.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:
                connection = stage.client.connect(22, timeout=0.002)
                accepted, tried = accepted + bool(connection), tried + 1
                if connection:
                    connection.close()
    finally:
        loop.kill()
        loop.wait()
    print(f"{accepted} of {tried}")
    assert accepted == 0
    knock_until_connected(stage)


def test_an_owned_table_outlives_its_daemon_and_the_next_one_adopts_it(stage):
    stage.set_up("nft")
    stage.open_port()
    before = listed_table(stage.server)
    for pid in [*stage.daemon.children(), stage.daemon.pid]:
        os.kill(pid, signal.SIGKILL)
    stage.daemon.wait_for_end()
    assert stage.connects(), "the opening is there"
    assert not stage.connects()
    stage.server.run("nft", "flush", "ruleset", check=False)
    assert listed_table(stage.server) != before, "it is nobody's"
    stage.start_daemon()
    assert listed_table(stage.server) == before
    assert stage.server.run("nft", "insert", "rule", "inet", "knockknock", "prerouting", "accept", check=False).returncode == 1


def test_an_opening_outlives_a_kill_and_the_next_start(stage):
    stage.set_up("nft")
    stage.open_port()
    for pid in [*stage.daemon.children(), stage.daemon.pid]:
        os.kill(pid, signal.SIGKILL)
    stage.daemon.wait_for_end()
    stage.start_daemon()
    assert stage.connects()
    assert not stage.connects()


def test_a_table_that_the_daemon_leaves_can_be_saved_and_loaded(stage):
    """nft 1.0.6 lists a table that has lost its owner in a way that it cannot read, which would stop a firewall at boot."""
    stage.set_up("nft")
    running = stage.server.run("nft", "list", "ruleset").stdout
    stage.daemon.stop()
    saved = stage.server.run("nft", "list", "ruleset").stdout
    assert "table inet knockknock {" in saved
    stage.server.run("nft", "flush", "ruleset")
    for text in (running, saved):
        stage.server.run("nft", "-f", "-", input=text)
    assert not stage.connects()
    with stage.server.connect(22, "127.0.0.1") as connection:
        assert connection.recv(100) == Service.GREETING
    stage.start_daemon()
    stage.open_port()
    assert stage.connects()


@pytest.mark.parametrize("start", ["over a plain table", "over none"])
def test_a_start_lets_nobody_in(stage, start):
    stage.set_up("nft")
    for _ in range(5):
        stage.daemon.stop()
        if start == "over none":
            stage.server.run("nft", "delete", "table", "inet", "knockknock")
            stage.start_daemon()
            continue
        stage.daemon = None
        began = time.monotonic()
        pending = stage.start_daemon(ready=False)
        while time.monotonic() - began < 0.3:
            connection = stage.client.connect(22, timeout=0.002)
            assert connection is None
        pending.wait_for(": ready")
    stage.open_port()
    assert stage.connects(address=SERVER)


@pytest.mark.parametrize("interfaces", ["eth0", "eth0, lo9"])
def test_an_opening_outlives_a_replaced_table(stage, interfaces):
    """The end of a daemon and its start replace the table, whose owner changes."""
    stage.set_up("nft", interfaces=interfaces)
    stage.open_port()
    stage.daemon.stop()
    stage.start_daemon()
    assert stage.connects()
    assert not stage.connects()


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_an_opening_is_copied_only_after_the_last_packet_that_could_use_it(stage):
    """A commit does not wait for other processors. Where the kernel cannot wait for them, the opening is dropped."""
    stage.set_up("nft")
    trace = stage.directory / "trace"
    for fault in ((), ("-e", "inject=membarrier:error=EINVAL")):
        stage.open_port()
        stage.daemon.stop()
        stage.start_daemon(enter=("strace", "-D", "-qq", "-o", trace, "-e", "trace=membarrier", *fault), ready=False)
        stage.daemon.wait_for(": ready", timeout=20)
        assert stage.connects() == (not fault)
        assert not stage.connects()
        assert trace.read_text().count("MEMBARRIER_CMD_GLOBAL") == 1


def test_a_replaced_table_guards_what_others_redirect_all_the_time(stage):
    """No transaction removes the guard from a chain without making it again."""
    stage.set_up("nft", interfaces="eth0, lo9")
    monitor = stage.server.start("nft", "monitor", stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(0.3)
        stage.daemon.stop()
        stage.start_daemon()
        time.sleep(0.3)
    finally:
        monitor.kill()
    transactions = monitor.communicate()[0].split("# new generation")
    assert sum("delete table inet knockknock\n" in transaction for transaction in transactions) >= 2
    for chain in ("prerouting", "input", "forward"):
        rule = f"rule inet knockknock {chain} "
        removed = [transaction for transaction in transactions if "delete " + rule in transaction]
        if chain == "prerouting":
            assert removed
        for transaction in removed:
            assert re.search(f"add {rule}.*drop\n", transaction), transaction


def test_a_reload_moves_the_guard_from_one_firewall_to_the_other(stage):
    stage.set_up("nft")
    for firewall in ("iptables", "nft", "iptables", "nft"):
        stage.configure(firewall=firewall, guard="22, 7", log="kmsg")
        stage.daemon.process.send_signal(signal.SIGHUP)
        stage.daemon.wait_for(f"guards ports 7,22 with {firewall}")
        assert not stage.connects()
        stage.open_port()
        assert stage.connects()
        assert not stage.connects()
        assert ("KNOCKKNOCK" in stage.server.run("iptables-save").stdout) == (firewall == "iptables")
        assert ("table inet knockknock" in stage.server.run("nft", "list", "tables").stdout) == (firewall == "nft")


@pytest.mark.parametrize("name", ["knockknock", "knockknock-draft", "knockknock-check"])
def test_a_table_of_another_shape_with_one_of_our_names_prevents_no_start(stage, name):
    stage.server.run("nft", "-f", "-", input=f"""
        table inet {name} {{
            set guarded {{ type ipv4_addr; }}
            chain prerouting {{ type filter hook prerouting priority -500; accept; }}
        }}""")
    stage.set_up()
    assert any(": ready" in line and "with nft, " in line for line in stage.daemon.lines), stage.daemon.lines
    assert not stage.connects()
    stage.open_port()
    assert stage.connects()


def test_unguard_removes_a_table_whose_owner_was_killed(stage):
    stage.set_up("nft")
    for pid in [*stage.daemon.children(), stage.daemon.pid]:
        os.kill(pid, signal.SIGKILL)
    stage.daemon.wait_for_end()
    assert not stage.connects()
    stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--unguard")
    assert stage.connects()
    assert "knockknock" not in stage.server.run("nft", "list", "ruleset").stdout


def test_the_socket_that_owns_the_table_is_shared_with_the_opener_alone(stage):
    stage.set_up("nft")

    def sockets(pid):
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        return {link for link in links if link.startswith("socket:")}
    owner = process(stage.daemon, "opener")
    netlink = stage.server.run("cat", "/proc/net/netlink").stdout.split()
    [shared] = [link for link in sockets(stage.daemon.pid) & sockets(owner) if link[8:-1] in netlink]
    assert shared not in sockets(process(stage.daemon, "watcher"))
