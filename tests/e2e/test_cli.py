"""The command line: applets, usage, exit statuses, and errors that say what to do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stage import BINARY, Daemon, Profile

ALIASES = ("knockknock-connect", "knockknock-daemon", "knockknock-genprofile", "knockknock-proxy")
ROOT = Path(__file__).parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a raw socket")


def run(*argv, program=BINARY, **options):
    return subprocess.run([program, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=10, **options)


def test_help_lists_the_applets():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert re.findall(r"^  (\w+) +\w", done.stdout, re.M) == ["knock", "daemon", "genprofile", "invite", "accept", "rotate", "revoke", "links", "connect",
                                                                  "proxy", "status", "doctor"]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("applet", [("daemon",), ("genprofile",), ("invite",), ("accept",), ("rotate",), ("revoke",), ("links",), ("knock",), ("connect",),
                                    ("proxy",), ("status",), ("doctor",)])
def test_each_applet_has_help(applet, flag):
    done = run(*applet, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: knockknock") and "\nOptions:\n" in done.stdout


def test_the_version_is_printed():
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert re.fullmatch(rf"knockknock {re.escape(version)} \([\w-]+, [\w-]+\)\n", done.stdout)


USAGE = {"": "-p PORT HOST", "knock": "-p PORT HOST", "daemon": "[OPTION ...]", "genprofile": "NAME [KNOCKPORT]",
         "invite": "NAME HOST", "accept": "[--as HOST]", "rotate": "NAME HOST", "revoke": "NAME", "links": "-p PORT HOST", "connect": "HOST PORT", "proxy": "LISTENPORT",
         "status": "[OPTION ...]", "doctor": "[HOST]"}


def test_no_arguments_is_usage():
    done = run()
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == ("", "usage: knockknock -p PORT HOST (see knockknock --help)\n")


@pytest.mark.parametrize("applet", USAGE)
def test_a_usage_error_shows_the_usage_line(applet):
    done = run(*applet.split(), "--frobnicate")
    name = f"knockknock-{applet}" if applet not in ("", "knock") else "knockknock"
    command = f"knockknock {applet}".rstrip()
    assert done.returncode == 2
    assert done.stderr == (f'{name}: unknown option "--frobnicate"\n'
                           f"usage: {command} {USAGE[applet]} (see {command} --help)\n")
    assert run(*applet.split(), "--help").returncode == 0


def test_one_argument_too_many_is_not_called_an_option():
    done = run("-p", "22", "host", "other")
    assert done.returncode == 2
    assert done.stderr.startswith('knockknock: unexpected argument "other"\n')


@pytest.mark.parametrize("command", [("genprofile", "x"), ("invite", "x", "host")])
@pytest.mark.parametrize("ports,why", [(",", '"," lists no port'), ("0", '"0" is not a port from 1 to 65535')])
def test_a_wrong_list_of_ports_is_named_with_its_option(command, ports, why):
    done = run(*command, "--ports", ports)
    assert done.returncode == 2
    assert "--ports" in done.stderr.splitlines()[0] and done.stderr.splitlines()[0].endswith(why)


def test_an_unknown_applet_is_127():
    done = run("frobnicate")
    assert done.returncode == 127
    assert done.stderr.startswith('knockknock: unknown applet "frobnicate"\n')


def test_a_host_without_p_is_told_how_to_knock():
    done = run("server.example.org")
    assert "to knock: knockknock -p PORT server.example.org; to list the applets: knockknock --help\n" in done.stderr


@pytest.mark.parametrize("argv", [
    ("--frobnicate",), ("-p",), ("-p", "22"), ("-p", "22", "host", "extra"), ("-x", "22", "host"),
    ("daemon", "--frobnicate"), ("daemon", "extra"), ("daemon", "--dir"), ("genprofile",),
    ("genprofile", "a", "1", "b"), ("-p", "x", "host"), ("-p", "-1", "host"), ("-p", "", "host"),
    ("-p", "22", "-p", "23", "host"), ("-p", "22", "-4=1", "host"), ("daemon", "--check=1"), ("daemon", "--dir", ""),
], ids=str)
def test_wrong_usage_is_2(argv):
    done = run(*argv)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("knockknock")


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_its_applet(tmp_path, alias):
    (tmp_path / alias).symlink_to(BINARY)
    by_alias = run("--help", program=tmp_path / alias)
    assert by_alias.returncode == 0
    applet = alias.removeprefix("knockknock-")
    assert by_alias.stdout == run(applet, "--help").stdout.replace(f"knockknock {applet}", alias, 1)
    assert by_alias.stdout.startswith(f"usage: {alias} ")


def test_an_alias_through_a_chain_of_links(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "binary").symlink_to(BINARY)
    (tmp_path / "knockknock-genprofile").symlink_to("a/binary")
    (tmp_path / "b").symlink_to(tmp_path)
    done = run("gate", 666, "--dir", tmp_path / "etc", program=tmp_path / "b" / "knockknock-genprofile")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc/profiles/gate/counter").exists()


def test_a_link_to_an_alias_is_that_applet(tmp_path):
    """The link's own name is not an applet; the name of its target is, through any chain of symlinks."""
    (tmp_path / "knockknock-genprofile").symlink_to(BINARY)
    (tmp_path / "make-profile").symlink_to("knockknock-genprofile")
    done = run("gate", 666, "--dir", tmp_path / "etc", program=tmp_path / "make-profile")
    assert done.returncode == 0, done.stderr


def test_an_alias_found_through_path(tmp_path):
    (tmp_path / "knockknock-genprofile").symlink_to(BINARY)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = run("gate", 666, "--dir", tmp_path / "etc", program="knockknock-genprofile", env=environment)
    assert done.returncode == 0, done.stderr


def test_no_argv_at_all():
    execute = "import ctypes, sys; ctypes.CDLL(None).execv(sys.argv[1].encode(), (ctypes.c_char_p * 1)(None))"
    done = run("-c", execute, BINARY, program=sys.executable)
    assert done.returncode == 2
    assert "knockknock --help" in done.stderr


ODD = os.fsdecode(b"x\xff")  # no UTF-8


def test_a_path_that_is_not_utf8_is_used_unchanged(tmp_path):
    """The keys were written into another directory."""
    for number, argv in enumerate((["--dir", tmp_path / ODD], [f"--dir={tmp_path / ODD}"])):
        assert run("genprofile", *argv, f"gate{number}", 4000 + number).returncode == 0
    assert os.listdir(os.fsencode(tmp_path)) == [b"x\xff"]
    assert sorted(os.listdir(tmp_path / ODD / "profiles")) == [".lock", "gate0", "gate1"]


@pytest.mark.parametrize("argv", [
    ("-p", "22", ODD), ("-p", ODD, "host"), ("-p" + ODD, "host"), ("genprofile", ODD, "4000"),
    ("genprofile", "gate", ODD), ("genprofile", "gate", "4000", f"--ports={ODD}"), ("connect", ODD, "22"),
    ("proxy", "--listen", ODD, "1080"), ("proxy", "--user", ODD, "1080"), ("-" + ODD,), ("--" + ODD,), ("daemon", ODD),
], ids=ascii)
def test_any_other_argument_that_is_not_utf8_is_refused(argv):
    done = run(*argv)
    assert done.returncode == 2
    assert re.search(r'argument ".*\\xFF" is not UTF-8$', done.stderr.splitlines()[0])


def test_an_applet_that_is_not_utf8_is_unknown():
    done = run(ODD)
    assert done.returncode == 127
    assert 'unknown applet "x\\xFF"' in done.stderr and "-p PORT HOST" in done.stderr


def test_the_value_of_an_option_may_start_with_a_dash(tmp_path):
    """`--dir -foo` was parsed as the letters f, o and o."""
    for number, argv in enumerate((["--dir", "-foo"], ["--dir=-foo"], ["--dir", "--"], ["--dir", "--check"])):
        done = run("genprofile", *argv, f"gate{number}", 4000 + number, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["--", "--check", "-foo"]
    assert '"-4" is not a port' in run("-p", "-4", "host").stderr.splitlines()[0]


def test_a_daemon_whose_directory_has_an_odd_name(stage):
    """Its watcher is given the name as an argument."""
    odd = os.fsdecode(b"-x\xff")
    stage.configure(firewall="nft", guard=22)
    Profile(stage, "gate")
    stage.server_dir.rename(stage.directory / odd)
    daemon = stage.keep(Daemon(stage.server, odd, enter=["env", "-C", stage.directory]))
    assert daemon.stop() == 0


def test_a_host_may_be_called_help(tmp_path):
    done = run("-p", "22", "--dir", tmp_path, "help")
    assert (done.returncode, done.stdout) == (1, "") and '"help"' in done.stderr


@needs_root
def test_control_bytes_are_escaped(tmp_path):
    done = run("--dir", tmp_path, "-p", "22", "a\x1b[31mb\nc")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f'knockknock: no profile for "a\\u{{1b}}[31mb\\nc" in "{tmp_path}"\n')
    assert "\x1b" not in done.stderr


def test_closed_standard_output():
    done = subprocess.run(["sh", "-c", f'"{BINARY}" --help >&-'], stderr=subprocess.PIPE, timeout=10)
    assert (done.returncode, done.stderr) == (0, b"")


@needs_root
@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_dev_null_takes_the_place_of_a_closed_standard_descriptor(stage, closed):
    """Otherwise the next file or socket would, and what the daemon prints would be written there."""
    stage.set_up()
    stage.daemon.stop()
    redirections = " ".join(f"{number}>&-" for number in closed)
    daemon = stage.server.start("sh", "-c", f'exec "{BINARY}" daemon --dir "{stage.server_dir}" {redirections}',
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with daemon:
        try:
            for _ in range(100):
                stage.knock()
                if stage.connects():
                    break
            else:
                pytest.fail("no knock opens the port")
            assert "".join(n for n in "012" if os.readlink(f"/proc/{daemon.pid}/fd/{n}") == "/dev/null") == closed
        finally:
            daemon.terminate()
            assert daemon.wait(10) == 0


@pytest.mark.parametrize("argv", [("--help",), ("--version",), ("knock", "--help"), ("daemon", "-h"), ("genprofile", "--help"),
                                  ("connect", "-h"), ("proxy", "--help")], ids=str)
def test_output_that_cannot_be_written_is_an_error(argv):
    """`knockknock --help >/dev/full` exited 0."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([BINARY, *argv], stdout=full, stderr=subprocess.PIPE, text=True, timeout=10)
    assert done.returncode == 1
    assert re.fullmatch(r"knockknock(-\w+)?: cannot write to standard output: no space left on device\n", done.stderr)


def test_a_check_that_cannot_print_is_an_error(stage):
    stage.configure(firewall="nft", guard=22)
    Profile(stage, "gate")
    done = stage.server.run("sh", "-c", f'"{BINARY}" daemon --check --dir "{stage.server_dir}" >/dev/full', check=False)
    assert done.returncode == 1
    assert "cannot write to standard output: no space left on device\n" in done.stderr


@pytest.mark.parametrize("typed, offered", [
    ("knockknock --wa", {"--wait"}), ("knockknock gen", {"genprofile"}), ("knockknock daemon --", {
        "--dir", "--background", "--check", "--trial", "--unguard", "--help"}), ("knockknock-genprofile --p", {"--ports"})])
def test_bash_completes_what_the_help_lists(typed, offered):
    script = subprocess.run([ROOT / "scripts/completions.sh", BINARY, "bash"], capture_output=True, text=True, check=True).stdout
    words = typed.split()
    ask = (f'{script}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}\n'
           f'_knockknock {words[0]} {words[-1]}; printf "%s\\n" "${{COMPREPLY[@]}}"')
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


@pytest.fixture
def profiles(tmp_path):
    """A client's directory with a profile for 127.0.0.1."""
    assert run("genprofile", "127.0.0.1", 666, "--dir", tmp_path / "server").returncode == 0
    shutil.copytree(tmp_path / "server/profiles", tmp_path / "client")
    return tmp_path / "client"


@needs_root
@pytest.mark.parametrize("port", [("-p", "22"), ("-p22",), ("--port", "22"), ("--port=22",)], ids=str)
@pytest.mark.parametrize("applet", [(), ("knock",)], ids=["knockknock", "knockknock knock"])
def test_the_port_in_each_spelling(profiles, applet, port):
    for number, argv in enumerate(([*port, "--dir", profiles, "127.0.0.1"], [f"--dir={profiles}", "127.0.0.1", *port]), 1):
        done = run(*applet, *argv)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (profiles / "127.0.0.1/counter").read_text() == f"{number:010}\n"


def is_one_error(stderr):
    """Returns whether stderr is an error message, optionally followed by a line of advice."""
    lines = stderr.splitlines()
    return 1 <= len(lines) <= 2 and lines[0].startswith("knockknock: ") and lines[0] == lines[0].rstrip(".")


@needs_root
@pytest.mark.parametrize("file, content", [
    ("cipher.key", b"AAAA\n"), ("cipher.key", b""), ("cipher.key", b"!!!!!!!!!!!!!!!!!!!!!!==\n"),
    ("mac.key", b"A" * 43 + b"=\n"), ("mac.key", None), ("cipher.key", None),
    ("counter", b""), ("counter", b"\n"), ("counter", b"seven\n"), ("counter", b"-1\n"), ("counter", b"4294967295\n"),
    ("counter", b"4294967296\n"), ("counter", b"99999999999999999999\n"), ("counter", None),
    ("config", b""), ("config", b"[main]\n"), ("config", b"[main]\nknock_port = 0\n"),
    ("config", b"[main]\nknock_port = x\n"), ("config", None),
], ids=str)
def test_a_bad_profile_is_one_clear_error(profiles, file, content):
    profile = profiles / "127.0.0.1"
    path = profile / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    before = {each: each.read_bytes() for each in profile.iterdir()}
    done = run("-p", "22", "--dir", profiles, "127.0.0.1")
    assert done.returncode == 1
    assert is_one_error(done.stderr), done.stderr
    assert file in done.stderr
    if file == "config" and content is not None:
        assert "make a new profile on both sides" in done.stderr
    assert {each: each.read_bytes() for each in profile.iterdir()} == before


@needs_root
@pytest.mark.parametrize("argv, status, named", [
    (("-p", "0", "127.0.0.1"), 2, "0"), (("-p", "70000", "127.0.0.1"), 2, "70000"),
    (("-p", "22", "unknown.invalid"), 1, "unknown.invalid"),
], ids=str)
def test_a_bad_request_is_one_clear_error(profiles, argv, status, named):
    counter = profiles / "127.0.0.1/counter"
    before = counter.read_bytes()
    done = run("--dir", profiles, *argv)
    assert done.returncode == status
    assert is_one_error(done.stderr), done.stderr
    assert f'"{named}"' in done.stderr
    assert counter.read_bytes() == before


@needs_root
def test_a_missing_directory_of_profiles_is_named(tmp_path):
    done = run("-p", "22", "--dir", tmp_path / "none", "127.0.0.1")
    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr
    assert "knockknock invite NAME 127.0.0.1;" in done.stderr


def test_a_set_uid_binary_only_knocks_and_connects(tmp_path):
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:  # only root may enter pytest's directories
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    binary = tmp_path / "knockknock"
    shutil.copy(BINARY, binary)
    binary.chmod(0o4755)

    def run_as_another_user(*arguments):
        return subprocess.run(["setpriv", "--reuid", "65432", "--regid", "65432", "--clear-groups", binary, *arguments],
                              capture_output=True, text=True, timeout=10)

    for arguments in (["daemon", "--unguard"], ["daemon"], ["proxy", "0"], ["genprofile", "x", "77", "--dir", tmp_path / "d"]):
        done = run_as_another_user(*arguments)
        assert done.returncode == 1 and "set-uid" in done.stderr
    assert not (tmp_path / "d").exists()
    (tmp_path / "secret").mkdir(mode=0o700)
    done = run_as_another_user("-p", "22", "--dir", tmp_path / "secret", "127.0.0.1")
    assert done.returncode == 1 and "permission denied" in done.stderr, "it reads as that user"
    assert run("genprofile", "127.0.0.1", 666, "--dir", tmp_path / "server").returncode == 0
    own = shutil.copytree(tmp_path / "server/profiles", tmp_path / "own")
    for path in (own, *own.rglob("*")):
        os.chown(path, 65432, 65432)
    done = run_as_another_user("-p", "22", "--dir", own, "127.0.0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert (own / "127.0.0.1/counter").read_text() == "0000000001\n"



PAGES = {"knock": "knockknock.1", "daemon": "knockknock-daemon.8", "genprofile": "knockknock-genprofile.1",
         "invite": "knockknock-invite.1", "accept": "knockknock-accept.1", "rotate": "knockknock-rotate.8",
         "revoke": "knockknock-revoke.8", "links": "knockknock-links.1",
         "connect": "knockknock-connect.1", "proxy": "knockknock-proxy.1", "status": "knockknock-status.1", "doctor": "knockknock-doctor.1"}
ALL_PAGES = sorted([*PAGES.values(), "knockknock.conf.5", "knockknock-wire.7"])
# A warning that depends on which other packages are installed.
UNKNOWN_REFERENCE = "referenced manual not found"


def page(name):
    """Returns the source of a manual page, with plain dashes."""
    return (ROOT / "man" / name).read_text().replace("\\-", "-")


def section(name, heading):
    """Returns the text of one section of a manual page."""
    return re.search(rf"^\.S[hs] {heading}\n(.*?)^\.S[hs] ", page(name), re.M | re.S)[1]


def test_every_applet_has_its_manual_page():
    summaries = dict(re.findall(r"^  (\w+) +(.*)", run("--help").stdout, re.M))
    assert summaries == {applet: re.search(r"^\.Nd (.*)", page(name), re.M)[1] for applet, name in PAGES.items()}
    assert sorted(path.name for path in (ROOT / "man").iterdir()) == ALL_PAGES


@pytest.mark.parametrize("applet", PAGES)
def test_help_and_manual_page_have_the_same_options(applet):
    text = run(applet, "--help").stdout
    in_help = {*re.findall(r"(?<!\w)--[a-z][a-z0-9-]*", text), *re.findall(r"^  (-\w), ", text, re.M), "-h"}
    text = page(PAGES[applet])
    of_page = {f"-{flag}" for item in re.findall(r"^\.It Fl .*", text, re.M) for flag in re.findall(r"Fl (-?[\w-]+)", item)}
    assert of_page == in_help | ({"--version", "-V"} if applet == "knock" else set())
    assert {f"-{flag}" for flag in re.findall(r"\bFl (-?[\w-]+)", text)} <= of_page, "an option that does not exist"


@pytest.mark.parametrize("name", ALL_PAGES)
def test_a_manual_page_refers_to_pages_that_exist(name):
    references = re.findall(r"^\.(?:It )?Xr (knockknock\S*) (\d)", page(name), re.M)
    assert references
    assert {f"{name}.{number}" for name, number in references} <= set(ALL_PAGES)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
@pytest.mark.parametrize("name", ALL_PAGES)
def test_mandoc_finds_nothing_wrong_with_a_manual_page(name):
    done = subprocess.run(["mandoc", "-Tlint", "-Wall", ROOT / "man" / name], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, timeout=10)
    assert [line for line in done.stdout.splitlines() if UNKNOWN_REFERENCE not in line] == []


@pytest.mark.parametrize("source, indent, heading, number", [
    ("src/config.rs", 12, "DAEMON CONFIGURATION", 9), ("src/profile/config.rs", 16, "Profile configuration", 4),
])
def test_the_manual_page_has_every_key_of_the_config(source, indent, heading, number):
    keys = re.findall(rf'^ {{{indent}}}"(\w+)" => ', (ROOT / source).read_text(), re.M)
    assert len(keys) == number
    assert sorted(re.findall(r"^\.It Cm (\w+) Ar \w+$", section("knockknock.conf.5", heading), re.M)) == sorted(keys)


def described(key):
    """Returns the description of a daemon key in knockknock.conf(5), as one line."""
    text = section("knockknock.conf.5", "DAEMON CONFIGURATION")
    return re.search(rf"^\.It Cm {key} Ar \w+\n(.*?)(?=^\.It Cm \w+ Ar |\Z)", text, re.M | re.S)[1].replace("\n", " ")


def is_valid(directory, config):
    """Returns whether a config is valid, according to genprofile, which reads it for its `guard`."""
    (directory / "config").write_text(config)
    done = run("genprofile", "gate", 666, "--dir", directory)
    shutil.rmtree(directory / "profiles", ignore_errors=True)
    if done.returncode != 0:
        assert done.returncode == 1 and f'"{directory}/config"' in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("key", ["delay", "error_window", "resync_window"])
def test_the_ranges_of_the_manual_page_are_the_programs(tmp_path, key):
    least, most = map(int, re.search(r"from (\d+) to (\d+)", described(key)).groups())
    valid = {value: is_valid(tmp_path, f"[main]\n{key} = {value}\n") for value in (least - 1, least, most, most + 1)}
    assert valid == {least - 1: False, least: True, most: True, most + 1: False}


@pytest.mark.parametrize("key", ["delay", "error_window", "resync_window", "mark"])
def test_the_defaults_of_the_manual_page_are_the_programs(stage, key):
    assert run("genprofile", "gate", 666, "--dir", stage.server_dir).returncode == 0
    checked = stage.server.run(BINARY, "daemon", "--dir", stage.server_dir, "--check").stdout
    default = re.search(r"default is (\w+)", described(key))[1]
    assert re.search(rf"^{key} +(\w+)", checked, re.M)[1] == default


def test_the_examples_of_the_manual_page_are_configs(tmp_path):
    *of_daemon, of_profile = re.findall(r"^\.Bd -literal.*\n((?:.*\n)*?)\.Ed$", page("knockknock.conf.5"), re.M)
    assert len(of_daemon) == 3
    for text in of_daemon:
        assert is_valid(tmp_path, text)
        keys = re.findall(r"^(\w+) = ", text, re.M)
        assert keys and all(map(described, keys))
    assert run("genprofile", "gate", 43017, "--ports", 22, "--dir", tmp_path).returncode == 0
    assert (tmp_path / "profiles/gate/config").read_text() == of_profile
