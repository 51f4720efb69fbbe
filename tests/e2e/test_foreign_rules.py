"""Rules of other programs that stand in the way: --check and the start name each, and the command that they print fixes it."""

from pathlib import Path

import pytest

from stage import BINARY, Profile

DROPS = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iifname lo accept
        ct state established,related accept
        %s
    }
}
"""
ADMITS = "ct mark and 0x08000000 != 0 accept"
REJECTS_LIKE_0_8 = """
iptables -N REJECTLOG
iptables -A REJECTLOG -m limit --limit 3/second --limit-burst 8 -j LOG --log-level debug --log-prefix "REJECT "
iptables -A REJECTLOG -p tcp -j REJECT --reject-with tcp-reset
iptables -A REJECTLOG -j REJECT
iptables -A INPUT -i lo -j ACCEPT
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A INPUT -j REJECTLOG
iptables -I INPUT -s 192.0.2.7 -p tcp -m limit --limit 1/minute --limit-burst 1 -m conntrack --ctstate NEW -m tcp --dport 22 -j ACCEPT
"""
ADMITTING = """
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A INPUT -m connmark --mark 0x08000000/0x08000000 -j ACCEPT
iptables -P INPUT DROP
"""


def nft(ruleset):
    return f"nft -f - <<'END'\n{ruleset}\nEND"


# What breaks knocking, and the findings about it.
OBSTACLES = {
    "a policy of nft": (nft(DROPS % ""), ["blocks knocked connections to ports 7,22: policy drop"]),
    "a rule of nft": (nft(DROPS % 'counter reject with tcp reset comment "accept"'), ["to ports 7,22: meta l4proto tcp counter packets 0"]),
    "a rule behind a jump": (
        nft("""table inet filter {
            chain rest { tcp dport 80 accept; tcp dport 22 drop; }
            chain input { type filter hook input priority filter; iifname vmap { "lo" : accept }; jump rest; }
        }"""), ["chain rest blocks knocked connections to port 22: tcp dport 22 drop"]),
    "an element of a verdict map": (
        nft("""table inet filter {
            chain rest { tcp dport 22 drop; }
            chain input {
                type filter hook input priority filter;
                iifname vmap { "eth9" : drop, "lo" : accept }; tcp dport vmap { 7 : drop, 22 : goto rest, 80 : accept }
            }
        }"""), ["chain input blocks knocked connections to port 7: tcp dport vmap { ",
                "chain rest blocks knocked connections to port 22: tcp dport 22 drop"]),
    "what 0.8 needs": (
        REJECTS_LIKE_0_8, ["has a rule that knockknock 0.8 left: -s 192.0.2.7/32", "chain REJECTLOG blocks"]),
    "a policy of iptables": (
        "iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -P INPUT DROP",
        ["table ip filter, chain INPUT blocks knocked connections to ports 7,22: policy drop"]),
    "a policy of iptables-legacy": (
        "iptables-legacy -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables-legacy -P INPUT DROP",
        ["table ip (legacy) filter, chain INPUT blocks knocked connections to ports 7,22: policy drop"]),
    "a rule for one interface": (
        "iptables -A INPUT -i eth0 -p tcp --dport 22 -m comment --comment 'not ACCEPT' -j DROP",
        ["blocks knocked connections to port 22: -i eth0"]),
    "the mark overwritten by iptables": (
        "iptables -t mangle -A PREROUTING -i eth0 -m conntrack --ctstate NEW -j CONNMARK --set-mark 2" + ADMITTING,
        ["changes the mark 0x08000000, by which other rules admit knocked connections to ports 7,22: -i eth0"]),
    "the mark overwritten by nft": (
        nft(DROPS % ADMITS) + "\n" + nft(
            "table inet other { chain pre { type filter hook prerouting priority mangle + 5; ct state new ct mark set 0x2; }; }"),
        ["table inet other, chain pre changes the mark 0x08000000, by which"]),
    "no tracking by nft": (
        nft("""table inet other {
            chain pre { type filter hook prerouting priority raw; tcp dport 22 notrack; }
            chain out { type filter hook output priority raw; tcp sport { 22, 80 } notrack; }
        }"""), ["chain pre exempts connections to port 22", "chain out exempts connections to port 22"]),
    "no tracking by iptables": (
        "iptables -t raw -A PREROUTING -p tcp --dport 22 -j NOTRACK; iptables -t raw -A OUTPUT -p tcp --sport 22 -j CT --notrack",
        ["ip raw, chain PREROUTING exempts connections to port 22", "ip raw, chain OUTPUT exempts connections to port 22"]),
    "no tracking at all": (
        nft("table ip other { chain pre { type filter hook prerouting priority raw; notrack; }; }"),
        ["chain pre exempts connections to ports 7,22"]),
    "a policy of nft for replies": (
        nft("""table inet filter {
            chain output { type filter hook output priority filter; policy drop; oifname lo accept; tcp sport 80 accept; }
            chain post { type filter hook postrouting priority filter; tcp sport { 7, 22 } ct state established drop; }
        }"""), ["chain output blocks knocked connections to ports 7,22: policy drop",
                "chain post blocks knocked connections to ports 7,22: tcp sport"]),
    "a policy of iptables for replies": (
        "iptables -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT; iptables -P OUTPUT DROP",
        ["table ip filter, chain OUTPUT blocks knocked connections to ports 7,22: policy drop"]),
    "packets dropped before the knock is seen": (
        nft("table netdev edge { chain in { type filter hook ingress device eth0 priority 0; tcp dport != { 7, 22, 80 } drop; }; }"),
        ["chain in drops packets to ports "]),
    "knocks dropped in table raw": (
        "iptables -t raw -A PREROUTING -p tcp -m multiport ! --dports 7,22,80 -j DROP",
        ["ip raw, chain PREROUTING drops packets to ports "]),
}


def findings(stage):
    """What --check finds, and the commands that it prints."""
    output = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check").stderr.splitlines()
    fixes = [line.split("to fix it: ")[1] for line in output if "to fix it: " in line]
    return output, fixes


def knock_opens(stage):
    stage.open_port()
    try:
        return stage.connects()
    except TimeoutError:  # connected, but no byte comes
        return False


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_rule_that_blocks_knocks_is_named_and_its_fix_works(stage, firewall, obstacle):
    stage.set_up(firewall)
    assert findings(stage)[1] == []
    breaks, named = OBSTACLES[obstacle]
    stage.server.run("sh", "-ec", breaks)
    output, fixes = findings(stage)
    if (firewall, obstacle) == ("iptables", "the mark overwritten by iptables"):
        # Our chain comes first there, and no other rule of that table sees the SYN that it accepts.
        assert fixes == [] and knock_opens(stage)
        return
    for name in named:
        assert any(name in line for line in output), output
    assert len(fixes) == len(named)
    if "seen" in obstacle or "raw" in obstacle:
        stage.knock()
        assert not stage.connects()
        assert not any("opened" in line for line in stage.daemon.new_lines())
    else:
        assert not knock_opens(stage)
    for fix in fixes:
        stage.server.run("sh", "-ec", fix)
    output, fixes = findings(stage)
    assert fixes == [], output
    assert knock_opens(stage)
    assert not stage.connects()


def test_the_command_for_more_ports_than_one_rule_takes_works(stage):
    stage.set_up("iptables", guard="22, 7, " + ", ".join(map(str, range(1001, 1021))))
    stage.server.run("sh", "-ec", "iptables -t raw -A PREROUTING -p tcp -j NOTRACK")
    [fix] = findings(stage)[1]
    stage.server.run("sh", "-ec", fix)
    assert findings(stage)[1] == []
    assert knock_opens(stage)


@pytest.mark.parametrize("obstacle", ["a policy of nft", "no tracking by iptables"])
def test_a_rule_that_blocks_knocks_is_named_at_the_start(stage, obstacle):
    breaks, [named, *_] = OBSTACLES[obstacle]
    stage.server.run("sh", "-ec", breaks)
    stage.set_up("nft")
    output = "\n".join(stage.daemon.lines)
    assert named in output.split(": ready")[0]


HARMLESS = {
    "the guarded port is accepted": nft(DROPS % "tcp dport { 7, 22, 80 } ct state new accept"),
    "a verdict map accepts it": nft(DROPS % "tcp dport vmap { 7 : accept, 22 : accept, 80 : drop }"),
    "its range is accepted": nft(DROPS % "tcp dport 1-1024 accept"),
    "a set of ports is accepted": nft("table inet filter { set open { type inet_service; elements = { 7, 22 }; }; }\n"
                                      + DROPS % "tcp dport @open accept"),
    "the mark is accepted": nft(DROPS % ADMITS),
    "other ports are dropped": "iptables -A INPUT -p tcp -m multiport ! --dports 22,7 -j DROP",
    "other packets are dropped": "iptables -A INPUT -p tcp ! --syn -m conntrack --ctstate NEW -j DROP; iptables -A INPUT -p udp -j DROP",
    "some sources are dropped": "iptables -A INPUT -s 192.0.2.0/24 -j DROP; iptables -A INPUT -p tcp --dport 22 -m connlimit --connlimit-above 9 -j DROP",
    "established connections are answered": nft("""table inet filter {
            chain output { type filter hook output priority filter; policy drop; ct state invalid drop; ct state established,related accept; }
            chain post { type filter hook postrouting priority mangle; tcp flags syn / syn,rst tcp option maxseg size set 1200; }
        }"""),
    "connections out are rejected": "iptables -A OUTPUT -p tcp --syn -j REJECT; iptables -A OUTPUT -m conntrack --ctstate NEW -j DROP",
    "replies of the port are accepted": "iptables -A OUTPUT -p tcp -m multiport --sports 7,22 -j ACCEPT; iptables -P OUTPUT DROP",
    "the size of segments is clamped": "iptables -t mangle -A PREROUTING -p tcp --syn -j TCPMSS --set-mss 1200; "
                                       "iptables -t mangle -A POSTROUTING -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1200",
    "knock ports are not tracked": "iptables -t raw -A PREROUTING -p tcp --dport 1024:65535 -j NOTRACK",
    "the loopback interface is not tracked": "iptables -t raw -A PREROUTING -i lo -j NOTRACK; iptables -t raw -A OUTPUT -o lo -j NOTRACK",
    "DNS is not tracked": nft("table inet other { chain pre { type filter hook prerouting priority raw; udp dport 53 notrack; }; }"),
    "tables that see no port drop": nft("""table arp other { chain in { type filter hook input priority filter; policy drop;
            arp operation { request, reply } accept; }; }
        table bridge other { chain in { type filter hook input priority filter; policy drop; }; }"""),
    "other bits of the mark are changed": "iptables -t mangle -A PREROUTING -j CONNMARK --set-xmark 0x100/0xff00" + ADMITTING,
}


@pytest.mark.parametrize("rules", HARMLESS)
def test_rules_that_let_knocks_and_knocked_connections_through_are_not_named(stage, firewall, rules):
    stage.server.run("sh", "-ec", HARMLESS[rules])
    stage.set_up(firewall)
    output, fixes = findings(stage)
    assert fixes == [], output
    assert knock_opens(stage)


def test_a_knock_whose_segment_size_is_clamped_before_our_rules_opens(stage, wire):
    stage.server.run("sh", "-ec", nft("""table inet other {
            chain pre { type filter hook prerouting priority raw; tcp flags syn tcp option maxseg size set 1200; }
        }"""))
    stage.set_up(wire=wire)
    assert findings(stage)[1] == []
    assert knock_opens(stage)


def test_a_rule_that_changes_the_mark_is_not_named_where_nothing_asks_for_the_mark(stage, firewall):
    stage.server.run("sh", "-ec", "iptables -t mangle -A PREROUTING -m conntrack --ctstate NEW -j CONNMARK --set-mark 2")
    stage.set_up(firewall)
    assert findings(stage)[1] == []
    assert knock_opens(stage)


def test_a_port_that_is_not_guarded_is_admitted_by_the_mark(stage):
    stage.set_up("nft", guard="7")
    web = Profile(stage, "web", ports=[80])
    stage.server.run("sh", "-ec", nft(DROPS % "tcp dport { 7, 22 } accept"))
    output, [fix] = findings(stage)
    assert any("blocks knocked connections to port 80: policy drop" in line for line in output), output
    assert web and fix == "nft insert rule inet filter input ct mark and 0x08000000 != 0 accept"


@pytest.mark.parametrize("release", ["22.03", "24.10"])
def test_a_knock_opens_past_what_fw4_loads_with_the_files_of_the_installer(stage, release):
    """tests/openwrt/fw4-*.nft is what OpenWrt's fw4 of that release prints for its default configuration with our files."""
    text = (Path(__file__).parents[1] / f"openwrt/fw4-{release}.nft").read_text()
    assert text.startswith("table inet fw4\nflush table inet fw4\n")
    included = stage.directory / "chain-pre"
    for chain in ("input", "forward"):
        (included / chain).mkdir(parents=True)
        assert f'"/usr/share/nftables.d/chain-pre/{chain}/knockknock.nft"' in text
        (included / chain / "knockknock.nft").touch()
    text = text.replace("/usr/share/nftables.d/chain-pre", str(included))

    def load():
        stage.server.run("nft", "-f", "-", input=text)
    load()
    stage.set_up(interfaces="eth0")
    assert any("table inet fw4, chain" in line for line in stage.daemon.lines), stage.daemon.lines
    stage.open_port()
    assert not stage.connects(), "without our files fw4 rejects it"
    for chain in ("input", "forward"):
        (included / chain / "knockknock.nft").write_text('ct mark and 0x08000000 != 0 accept comment "knocked"\n')
    load()
    assert stage.connects(), "nothing has used the opening"
    for _ in range(3):
        load()
        assert not stage.connects()
        stage.open_port()
        load()
        assert stage.connects(), "an opening outlives a reload of fw4"
        assert not stage.connects()
    assert "to fix it" not in stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check").stderr
