"""Links: an IPv6 address that carries a code. Any program that connects to it knocks."""

import base64
import contextlib
import json
import random
import re
import shutil
import socket
import time

import pytest

import hotp
import packets
from stage import BINARY, CLIENT6, ETH_P_ALL, SERVER6, KernelLog, Profile, Service

PREFIX = "2001:db8:0:ff::/64"
ORDER = "links are used in their order, each once"


def make_profile(stage, name, prefix=PREFIX, ports="22"):
    """Creates a profile for links, and its copy at home under the same name."""
    stage.server.run(BINARY, "genprofile", name, "--links", prefix, "--ports", ports, "--dir", stage.server_dir)
    shutil.copytree(stage.server_dir / "profiles" / name, stage.client_dir / name)


@pytest.fixture
def linked(stage, firewall, request):
    """A daemon with a profile for links, and a client that has a route to the prefix."""
    log = getattr(request, "param", "kmsg")
    if log == "file":
        log = stage.log_dir / "kern.log"
        stage.keep(KernelLog(log))
    stage.configure(firewall=firewall, guard="22", log=log)
    make_profile(stage, "phone")
    stage.client.run("ip", "-6", "route", "add", "2001:db8::/32", "via", SERVER6)
    stage.start_daemon()
    return stage


def links(stage, number=3, name="phone", *options, port=22):
    done = stage.client.run(BINARY, "links", name, "-p", port, "-n", number, "--dir", stage.client_dir, *options)
    return re.findall(r"http://\[(.*?)\]", done.stdout)


def enters(stage, server=SERVER6):
    connection = stage.client.connect(22, server)
    if not connection:
        return False
    with connection, contextlib.suppress(OSError):
        return connection.recv(100) == b"welcome\n"
    return False


def tap(stage, address, port=80):
    """Opens a link as a browser does. Nothing ever answers there."""
    done = stage.client.run("curl", "-sS", "-m", "1", f"http://[{address}]:{port}/", check=False)
    assert done.returncode != 0
    return done


def admits(stage, address, port=80):
    tap(stage, address, port)
    stage.daemon.wait_for("opened port 22")
    return enters(stage)


def does_nothing(stage, address):
    stage.daemon.new_lines()
    tap(stage, address)
    time.sleep(0.2)
    return not enters(stage) and not any("opened" in line for line in stage.daemon.new_lines())


@pytest.mark.parametrize("linked", ["kmsg", "file", "nflog:93"], indirect=True)
def test_a_link_admits_one_connection(linked):
    first, second, third = links(linked)
    assert not enters(linked)
    assert admits(linked, first)
    assert not enters(linked)
    assert does_nothing(linked, first)
    assert admits(linked, second, 8443)
    assert admits(linked, third, 443)
    assert does_nothing(linked, "2001:db8:0:ff::1")


def test_a_link_is_reset_with_nft_and_dropped_with_iptables(linked, firewall):
    first, _, _ = links(linked)
    refused, timed_out = 7, 28
    assert tap(linked, first).returncode == (refused if firewall == "nft" else timed_out)


def test_a_used_link_kills_those_before_it(linked):
    first, second, third = links(linked)
    assert admits(linked, second), "one may be skipped"
    assert does_nothing(linked, first)
    assert admits(linked, third)
    assert does_nothing(linked, second)


def test_a_link_used_again_is_reported_unless_its_user_tries_again(linked):
    first, _, _ = links(linked)
    assert admits(linked, first)
    for port in (80, 443):
        tap(linked, first, port)
    time.sleep(0.2)
    assert not any("knock" in line or "link" in line for line in linked.daemon.new_lines())
    linked.client.run("ip", "address", "add", "fd09::77/64", "dev", "eth0", "nodad")
    linked.client.run("curl", "-sS", "-m", "1", "--interface", "fd09::77", f"http://[{first}]/", check=False)
    linked.daemon.wait_for("connection from fd09::77 to an address of links: it is a link that was used")
    linked.daemon.wait_for(ORDER)


def test_links_are_the_documented_codes_and_are_burned_before_they_are_printed(stage):
    make_profile(stage, "phone", ports="22,443")
    profile = stage.client_dir / "phone"
    mac_key = base64.b64decode((profile / "mac.key").read_text())
    done = stage.client.run(BINARY, "links", "phone", "-p", 443, "-n", 2, "--link-port", 8443, "--dir", stage.client_dir)
    wanted = [f"{row:4}  http://[{hotp.link(mac_key, PREFIX, counter, 443)}]:8443/" for row, counter in ((1, 0), (2, 1))]
    assert done.stdout.splitlines() == wanted
    assert done.stderr.count("one-time password") == 1
    assert (profile / "counter").read_text() == "0000000002\n"
    done = stage.client.run("sh", "-c", f'"{BINARY}" links phone -p 443 --dir "{stage.client_dir}" >/dev/full', check=False)
    assert done.returncode == 1
    assert (profile / "counter").read_text() == "0000000022\n"
    assert links(stage, 1) == [str(hotp.link(mac_key, PREFIX, 22, 22))]


@pytest.mark.parametrize("argv", [
    ("knock", "-p", "22", "phone"), ("connect", "phone", "22"), ("doctor", "phone")], ids=lambda argv: argv[0])
def test_a_profile_for_links_cannot_knock(stage, argv):
    make_profile(stage, "phone")
    done = stage.client.run(BINARY, *argv, "--dir", stage.client_dir, check=False)
    assert done.returncode == 1
    assert 'profile "phone" is for links and cannot knock' in done.stdout + done.stderr
    assert "knockknock links phone -p PORT" in done.stdout + done.stderr
    assert (stage.client_dir / "phone/counter").read_text().strip() == "0"


def test_a_profile_that_knocks_has_no_links(stage):
    Profile(stage, "gate").give_to_client("server")
    done = stage.client.run(BINARY, "links", "server", "-p", 22, "--dir", stage.client_dir, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert 'profile "server" is for knocks, not for links' in done.stderr


def test_knocks_and_links_of_one_server_do_not_disturb_each_other(linked):
    gate = Profile(linked, "gate", ports=[22], wire="stealth")
    gate.give_to_client(SERVER6)
    linked.daemon.stop()
    linked.start_daemon()
    first, second, _ = links(linked)
    assert admits(linked, first)
    linked.knock(22, host=SERVER6)
    linked.daemon.wait_for("opened port 22")
    assert enters(linked)
    assert admits(linked, second)


def test_the_profile_for_links_travels_by_invitation(linked):
    shutil.rmtree(linked.client_dir / "phone")
    line = linked.server.run(BINARY, "invite", "phone", "home.example", "--dir", linked.server_dir).stdout
    assert line.startswith(f"knockknock1:links={PREFIX};ports=22;:1:home.example:")
    linked.client.run(BINARY, "accept", "--as", "phone", "--dir", linked.client_dir, input=line)
    first, second, _ = links(linked)
    assert admits(linked, first)
    line = linked.server.run(BINARY, "rotate", "phone", "phone", "--dir", linked.server_dir).stdout
    shutil.rmtree(linked.client_dir / "phone")
    linked.client.run(BINARY, "accept", "--dir", linked.client_dir, input=line)
    linked.daemon.stop()
    linked.start_daemon()
    assert admits(linked, second), "until the new keys are used"
    assert admits(linked, links(linked)[0])
    assert any("is revoked: its new keys have knocked" in line for line in linked.daemon.lines)


def test_an_invitation_for_links_beside_a_knocks_profile_wants_another_name(stage):
    Profile(stage, "gate").give_to_client("home.example")
    make_profile(stage, "phone")
    line = stage.server.run(BINARY, "invite", "phone", "home.example", "--dir", stage.server_dir).stdout
    done = stage.client.run(BINARY, "accept", "--dir", stage.client_dir, input=line, check=False)
    assert done.returncode == 1 and "knockknock accept --as NAME" in done.stderr


@pytest.mark.parametrize("prefix", ["2001:db8::/47", "2001:db8::/81", "2001:db8::1/64", "fe80::/64", "10.0.0.0/48", "phone"])
def test_a_prefix_that_cannot_have_links_is_refused(tmp_path, stage, prefix):
    done = stage.server.run(BINARY, "genprofile", "phone", "--links", prefix, "--ports", 22, "--dir", tmp_path, check=False)
    assert done.returncode == 2
    assert f'"{prefix}" is not an IPv6 prefix of 48 to 80 bits' in done.stderr
    assert not (tmp_path / "profiles").exists()


def test_a_prefix_with_an_address_of_the_server_is_refused_and_never_closes_it(linked, firewall):
    done = linked.server.run(BINARY, "genprofile", "tablet", "--links", "fd09::/64", "--ports", 22, "--dir", linked.server_dir, check=False)
    assert done.returncode == 1
    assert "fd09::/64 cannot be for links: fd09::1 is an address of this machine" in done.stderr
    linked.keep(Service(linked.server, 8080))
    linked.server.run("ip", "address", "add", "2001:db8:0:ff::80/128", "dev", "lo", "nodad")
    with linked.client.connect(8080, "2001:db8:0:ff::80", timeout=3) as connection:
        assert connection.recv(100) == b"welcome\n"


def diagnose(stage):
    """Returns the findings of doctor as [(finding, step, what, fix)]; --check must have the same about links."""
    done = stage.server.run(BINARY, "doctor", "--json", "--dir", stage.server_dir, check=False)
    found = [tuple(json.loads(line).values()) for line in done.stdout.splitlines()]
    checked = stage.server.run(BINARY, "daemon", "--check", "--dir", stage.server_dir).stderr
    for finding, step, what, fix in found:
        if step == "links":
            assert (what in checked) == (finding == "wrong") and (fix is None or f"to fix it: {fix}" in checked)
    return found


def wrong(found):
    return [entry for entry in found if entry[0] == "wrong"]


def test_doctor_finds_nothing_wrong_where_the_only_profile_is_for_links(linked):
    assert admits(linked, links(linked)[0])
    found = diagnose(linked)
    assert wrong(found) == []
    assert ("ok", "links", f"{PREFIX} is not on-link and has no hosts here", None) in found
    assert ("ok", "profile", f'"phone": links in {PREFIX}, links wire, opens port 22, counter 1', None) in found
    [counted] = [what for _, step, what, _ in found if step == "log" and "SYNs" in what]
    # With iptables the client retransmits its SYN.
    assert re.fullmatch(r"SYNs to knock ports and links that were logged: ([1-9]); read by the daemon: \1", counted)
    proof, left_out = [(finding, what) for finding, step, what, _ in found if step == "proof"]
    assert proof[0] == "ok" and left_out[0] == "note" and left_out[1].startswith("no link was tried")


def test_doctor_finds_a_prefix_that_is_on_link_and_its_commands_mend_it(linked):
    # Without the route of the fixture the client, like a router, looks for the addresses on the link.
    linked.client.run("ip", "-6", "route", "del", "2001:db8::/32")
    for machine, address in ((linked.client, "2001:db8::2"), (linked.server, "2001:db8::1")):
        machine.run("ip", "address", "add", f"{address}/32", "dev", "eth0", "nodad")
    first, second, third = links(linked)
    assert does_nothing(linked, first)
    [(_, step, what, fix)] = wrong(diagnose(linked))
    assert step == "links"
    assert what == (f"{PREFIX} is on-link on eth0, by the route to 2001:db8::/32: "
                    "links arrive only if the router sends them here")
    on_router, here = fix.split(" # on the router; then here: ")
    linked.client.run(*on_router.split())
    for address in (second, third):
        tap(linked, address)
        linked.daemon.wait_for("opened port 22")
        assert enters(linked, "2001:db8::1")
        linked.server.run(*here.split(), check=False)
    assert wrong(diagnose(linked)) == []


@pytest.mark.parametrize("route", ["local", "connected", "gateway"])
def test_doctor_finds_hosts_in_the_prefix_and_its_command_mends_it(linked, route):
    found, command = {
        "local": (f"{PREFIX} on lo", f"ip -6 route add local {PREFIX} dev lo"),
        "connected": ("2001:db8:0:ff::1/128 on eth0", "ip address add 2001:db8:0:ff::1/80 dev eth0 nodad"),
        "gateway": ("2001:db8:0:ff:8000::/65 on eth0", "ip -6 route add 2001:db8:0:ff:8000::/65 via fd09::2"),
    }[route]
    linked.server.run(*command.split())
    [(_, step, what, fix)] = wrong(diagnose(linked))
    assert step == "links"
    assert what.startswith(f"{PREFIX} is not free for links: there is a route to ")
    assert what.endswith(found if route != "connected" else " on eth0")
    shutil.rmtree(linked.client_dir / "phone")
    shutil.rmtree(linked.server_dir / "profiles/phone")
    words = {"knockknock": BINARY, "PREFIX": "2001:db8:0:fe::/64", "PORTS": "22", "NAME": "phone"}
    command = [words.get(word, word) for word in fix.partition(": ")[2].split()]
    linked.server.run(*command, "--dir", linked.server_dir)
    shutil.copytree(linked.server_dir / "profiles/phone", linked.client_dir / "phone")
    linked.daemon.stop()
    linked.start_daemon()
    assert wrong(diagnose(linked)) == []
    assert admits(linked, links(linked)[0])


def test_doctor_allows_a_prefix_that_a_tunnel_leads_here(linked):
    linked.server.run("ip", "-batch", "-", input="""
        tuntap add tun9 mode tun
        address add 2001:db8::1/32 dev tun9
        link set tun9 up
    """)
    assert wrong(diagnose(linked)) == []


def test_links_need_no_forwarding_and_pass_the_reverse_path_filters_of_other_firewalls(linked, firewall):
    for name in ("all", "default", "eth0"):
        linked.server.run("sysctl", "-qw", f"net.ipv6.conf.{name}.forwarding=0")
    if firewall == "nft":
        # As firewalld has it (IPv6_rpfilter), before and after our chain.
        for chain, priority in (("before", "raw"), ("after", "mangle + 10")):
            linked.server.run("nft", "-f", "-", input=f"""
                table inet other {{
                    chain {chain} {{
                        type filter hook prerouting priority {priority};
                        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
                    }}
                }}""")
    else:
        for table in ("raw", "mangle"):
            rule = f"-t {table} -A PREROUTING -m rpfilter --invert -j DROP"
            linked.server.run("ip6tables", *rule.split())
    first, second, _ = links(linked)
    assert admits(linked, first)
    linked.server.run("ip", "-6", "route", "add", "unreachable", PREFIX)
    assert admits(linked, second)
    assert wrong(diagnose(linked)) == []


def test_check_lists_the_profile_with_its_prefix(stage):
    stage.configure(firewall="nft", guard="22")
    make_profile(stage, "phone")
    listed = stage.server.run(BINARY, "daemon", "--check", "--dir", stage.server_dir).stdout
    assert re.search(rf'^profile +"phone": links in {PREFIX}, opens port 22$', listed, re.M)
    assert re.search(r"^knock ports +none$", listed, re.M)
    shown = stage.client.run(BINARY, "status", "--json", "--dir", stage.client_dir).stdout
    assert '"host":"phone","knock_port":null,"wire":"links","ports":[22]' in shown


BROWSERS = {
    "curl": lambda address: ["curl", "-sS", "-m", "1", f"http://[{address}]/"],
    "nc": lambda address: ["nc", "-6", "-z", "-w", "1", address, "8080"],
    "bash": lambda address: ["timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{address}/443"],
}


@pytest.mark.parametrize("program", BROWSERS)
def test_any_program_that_connects_knocks(linked, program):
    first, _, _ = links(linked)
    linked.client.run(*BROWSERS[program](first), check=False)
    linked.daemon.wait_for("opened port 22")
    assert enters(linked)


def ping(stage, address):
    stage.client.run("ping", "-6", "-c", "1", "-W", "1", address, check=False)


def datagram(stage, address):
    with stage.client.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"hello", (address, 443))


def segment(flags):
    """Sends a segment that begins no connection."""
    def send(stage, address):
        syn = packets.syn(CLIENT6, address, 40000, 80, 1, 2)
        stage.client.send(syn[:53] + bytes([flags]) + syn[54:])
    return send


@pytest.mark.parametrize("send", [ping, datagram, segment(packets.ACK), segment(packets.SYN | packets.ACK), segment(packets.RST)],
                         ids=["ping", "UDP", "ACK", "SYN-ACK", "RST"])
def test_what_begins_no_connection_does_not_knock_and_is_not_forwarded(linked, send):
    linked.server.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    linked.server.run("ip", "-batch", "-", input="link set lan0 up\nlink set lan1 up\naddress add fe80::99/64 dev lan0 nodad\n"
                                                 "route add 2001:db8:0:ff::/64 dev lan0\n"
                                                 "route add 2001:db8:0:fe::/64 dev lan0\n")
    linked.server.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    capture = linked.keep(Arrivals(linked.server))
    first, _, _ = links(linked)
    send(linked, first)
    send(linked, "2001:db8:0:fe::1")
    capture.wait_for("2001:db8:0:fe::1")
    assert first not in capture.asked, "the kernel looks for the addresses of packets that it forwards"
    assert not any("opened" in line for line in linked.daemon.new_lines())
    assert not enters(linked)
    assert admits(linked, first)


class Arrivals:
    """The addresses that the kernel looks for on lan0."""

    def __init__(self, machine):
        self._socket = machine.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind(("lan0", ETH_P_ALL))
        self._socket.settimeout(3)
        self.asked = []

    def wait_for(self, address):
        while address not in self.asked:
            frame = self._socket.recv(2048)
            icmp = frame[54:]
            if icmp[:1] == b"\x87":  # a neighbour solicitation
                self.asked.append(socket.inet_ntop(socket.AF_INET6, icmp[8:24]))

    def close(self):
        self._socket.close()


def test_a_lost_list_is_revoked_alone(linked):
    make_profile(linked, "tablet")
    linked.daemon.stop()
    linked.start_daemon()
    lost, kept = links(linked, 20), links(linked, 20, "tablet")
    assert admits(linked, lost[0]) and admits(linked, kept[0])
    linked.server.run(BINARY, "revoke", "phone", "--dir", linked.server_dir)
    assert does_nothing(linked, lost[1])
    assert admits(linked, kept[1])
    linked.daemon.stop()
    linked.start_daemon()
    assert does_nothing(linked, lost[2])
    assert admits(linked, kept[2])


def test_the_first_link_of_a_second_list_needs_the_second_while_the_first_list_lies_unused(linked):
    first, second = links(linked, 20), links(linked, 100)
    assert does_nothing(linked, second[0]), "20 ahead is beyond error_window"
    assert admits(linked, second[1])
    assert does_nothing(linked, first[0]) and does_nothing(linked, first[19])
    assert admits(linked, second[2])


def test_a_second_list_kills_the_rest_of_the_first(linked):
    first, second = links(linked, 20), links(linked, 100)
    assert admits(linked, first[0])
    assert admits(linked, second[0])
    assert does_nothing(linked, first[1])
    assert does_nothing(linked, second[50]), "too many skipped"
    assert admits(linked, second[51])


def test_the_last_link_first_leaves_none(linked):
    *others, last = links(linked, 20)
    assert admits(linked, last)
    assert all(does_nothing(linked, link) for link in (others[0], others[-1]))


def test_a_flood_of_syns_to_the_prefix_holds_to_the_limit_of_its_source(linked, firewall):
    """A source is a /64 of addresses. The owner's has its own limit."""
    log = linked.keep(KernelLog(linked.log_dir / "flood", only=b"DST=2001:0db8:0000:00ff:"))
    first, _, _ = links(linked)
    sent, start = 4000, time.monotonic()
    for number in range(sent):
        address = f"2001:db8:0:ff:{random.getrandbits(16):x}:{random.getrandbits(16):x}:{random.getrandbits(16):x}:1"
        linked.client.send(packets.syn(f"2001:db8:77::{number % 99 + 1:x}", address, 40000, 80, 1, number))
    took = time.monotonic() - start
    assert admits(linked, first)
    log.stop()
    logged = log.path.read_bytes().count(b"SRC=2001:0db8:0077")
    assert 100 < logged <= 200 + 100 * (took + 1) < sent, f"{logged} of {sent} in {took:.1f} s"
    if firewall == "nft":
        answered = linked.server.run("nft", "list", "counter", "inet", "knockknock", "logged").stdout
        assert int(re.search(r"packets (\d+)", answered)[1]) <= logged + 4
