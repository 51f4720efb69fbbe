"""The programs that are measured: knockknock, the floor, and the peers as Debian packages them.

Each can be started on a network's server, and makes valid knocks for it as whole IPv4 packets.
"""

import base64
import json
import os
import shutil
import tempfile

import packets
from world import BUILD, CLIENT, SERVER, Process, command

PORT = 2222            # the closed port that the knocks open
GROUP = 77             # the NFLOG group of knockknock and of the floor

BINARIES = os.environ.get("KNOCKKNOCK", ""), "dist/x86_64-unknown-linux-musl/knockknock", "target/release/knockknock"
BINARY = next((path for path in BINARIES if os.path.exists(path)), None)
TMPFS, DISK = "/dev/shm", BUILD


class Contestant:
    """One program on one network. At the end of the with block it is stopped and its files are removed."""

    wait = 0.02, 0.15      # between two knocks, in random seconds, so that polling shows
    authentic = True       # knocks are authenticated, so other packets to the port open nothing
    process = None

    def __init__(self, network, store=DISK):
        self.network = network
        self.directory = tempfile.mkdtemp(prefix="bench-", dir=os.path.abspath(store))

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process:
            self.process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(self.path(name), 0o600)
        return self.path(name)

    def run(self, *words, **options):
        return self.network.run(self.network.server, *words, **options)

    def spawn(self, *words, **options):
        self.process = Process(self.label, words, namespace=self.network.server, **options)


class Knockknock(Contestant):
    """Our daemon with a number of `profiles`, each with its own keys and, unless `shared`, its own knock port. The first
    one knocks. They are classic, unless `wire` says otherwise. With `links` there is one more, for links."""

    label, knock_port = "knockknock", 30666

    def __init__(self, network, store=DISK, log="kmsg", profiles=1, shared=False, wire=None, links=None, **config):
        super().__init__(network, store)
        self.stdin = config.pop("stdin", None)
        ports = config.pop("ports", PORT)
        settings = {**({"ports": ports} if ports else {}), **({"wire": wire} if wire else {})}
        self.key = packets.Key()
        for n in range(profiles):
            key = packets.Key() if n else self.key
            key.write(self.path(f"profiles/{n}"), self.knock_port + (0 if shared else n), **settings)
        if links:
            packets.Key().write(self.path("profiles/links"), None, links=links, ports=PORT)
        config = {"log": log, "firewall": "nft", "guard": PORT, **config}
        self.write("config", "\n".join(["[main]", *(f"{k} = {v}" for k, v in config.items())]) + "\n")

    def start(self):
        self.spawn(BINARY, "daemon", "--dir", self.directory, ready="knockknock-daemon: ready",
                   **({"stdin": self.stdin} if self.stdin else {}))

    def knocks(self, n, source=CLIENT):
        fields = self.key.fields(PORT, n + n // 1000 + 2)
        return [packets.syn(source.format(i), SERVER, self.knock_port, next(fields)) for i in range(n)]

    def count(self, name):
        """Returns a count that the daemon has published."""
        return json.loads(self.run(BINARY, "status", "--dir", self.directory, "--json"))["counts"][name]

    def client(self):
        """Returns the command line of one knock, and writes the client's profile."""
        self.key.write(self.path(f"client/{SERVER}"), self.knock_port)
        return [BINARY, "-p", str(PORT), "--dir", self.path("client"), SERVER]


class Floor(Contestant):
    """The same nftables rules, one fdatasync, one element added by netlink, and nothing else."""

    label, knock_port = "floor", 30667

    def __init__(self, network, store=DISK, log="kmsg"):
        super().__init__(network, store)
        self.log = log

    def start(self):
        rule = f"group {GROUP} queue-threshold 1" if self.log != "kmsg" else "level debug flags tcp sequence,options"
        self.run("nft", "-f", "-", input=f"""table inet floor {{
            set open {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 15s; size 4096;
                        limit rate 1/day burst 1 packets; }}
            chain prerouting {{
                type filter hook prerouting priority mangle - 10;
                meta l4proto != tcp return
                ct state established return
                tcp dport {self.knock_port} log prefix "floor " {rule} return
                tcp flags syn ip saddr . tcp dport @open delete @open {{ ip saddr . tcp dport }} accept
                tcp dport {PORT} drop
            }}
        }}""")
        self.spawn(f"{BUILD}/floor", self.log, self.path("counter"), "floor", "open", str(PORT), ready="floor: ready")

    def knocks(self, n, source=CLIENT):
        return [packets.syn(source.format(i), SERVER, self.knock_port) for i in range(n)]


class Peer(Contestant):
    """A peer opens with an iptables rule and deletes it after a second, so its knocks are further apart than that."""

    wait = 1.3, 1.7
    iptables = "/usr/sbin/iptables-nft"     # so that the kernel notifies of its rules as of nftables' own

    def start(self):
        for rule in ("-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT", f"-A INPUT -p tcp --dport {PORT} -j DROP"):
            self.run(self.iptables, "-w", *rule.split())


class Fwknop(Peer):
    label, knock_port, by_udp = "fwknopd, pcap", 62201, "N"

    def __init__(self, network, store=DISK):
        super().__init__(network, store)
        self.key, self.mac = (base64.b64encode(os.urandom(n)).decode() for n in (32, 64))

    def start(self):
        super().start()
        rules = self.write("access.conf", f"SOURCE ANY\nKEY_BASE64 {self.key}\nHMAC_KEY_BASE64 {self.mac}\n"
                                          f"OPEN_PORTS tcp/{PORT}\nFW_ACCESS_TIMEOUT 1\n")
        config = self.write("fwknopd.conf", f"PCAP_INTF wan0;\nENABLE_UDP_SERVER {self.by_udp};\n"
                                            f"FIREWALL_EXE {self.iptables};\n")
        self.spawn("fwknopd", "--foreground", "-c", config, "-a", rules, "-r", self.directory,
                   "-p", self.path("pid"), "-d", self.path("digests"), pause=1)

    def client(self, *more):
        return [shutil.which("fwknop"), "-A", f"tcp/{PORT}", "-a", CLIENT, "-D", SERVER, "--no-rc-file", "--no-save-args",
                "--key-base64-rijndael", self.key, "--use-hmac", "--key-base64-hmac", self.mac, *more]

    def knocks(self, n, source=CLIENT):
        made = []
        for _ in range(n):
            command(*self.client("--test", "--save-packet", self.path("spa")))
            with open(self.path("spa"), "rb") as file:
                made.append(packets.udp(source, SERVER, self.knock_port, file.read().strip()))
        return made


class FwknopUdp(Fwknop):
    label, by_udp = "fwknopd -U", "Y"


class Knockd(Peer):
    label, knock_port = "knockd", 7000
    authentic = False       # each packet to the port starts a child process

    def start(self):
        super().start()
        config = self.write("knockd.conf", f"""[options]
            interface = wan0
            logfile = {self.path("log")}
        [open]
            sequence = {self.knock_port}
            seq_timeout = 1
            tcpflags = syn
            start_command = {self.iptables} -w -I INPUT -s %IP% -p tcp --dport {PORT} -j ACCEPT
            cmd_timeout = 1
            stop_command = {self.iptables} -w -D INPUT -s %IP% -p tcp --dport {PORT} -j ACCEPT
        """)
        self.spawn("knockd", "-c", config, "-i", "wan0", "-p", self.path("pid"), pause=1)

    def client(self):
        return [shutil.which("knock"), SERVER, str(self.knock_port)]

    def knocks(self, n, source=CLIENT):
        return [packets.syn(source, SERVER, self.knock_port) for _ in range(n)]
